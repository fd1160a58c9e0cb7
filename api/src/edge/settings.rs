//! Settings of the HTTP edge.

use std::ops::RangeInclusive;
use std::time::Duration;

use axum::http::header::{InvalidHeaderName, RETRY_AFTER};
use axum::http::{HeaderName, Method};
use chrono_tz::Tz;
use runtime::settings::{duration, duration_from};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use super::origin::AllowedOrigin;
use super::pages::oidc::OidcSettings;
use super::pages::tokens::PageTokens;

/// How long browsers may cache the response to a CORS preflight request.
const PREFLIGHT_MAX_AGE: Duration = Duration::from_secs(3600);
/// Headers that GraphQL clients and tracing libraries send.
const USUAL_HEADERS: &str = "accept,authorization,content-type,apollo-require-preflight,apollographql-client-name,\
                             apollographql-client-version,baggage,traceparent,tracestate,x-request-id";

#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "HTTP")]
pub struct HttpSettings {
    /// Accept queries with GET as well as POST
    #[arg(long, env, default_value_t = true, action = clap::ArgAction::Set)]
    pub graphql_get: bool,
    /// Origins that may call /graphql from a browser, separated by commas: https://shop.example.com, all sub-domains as in https://*.example.com, all ports as in http://localhost:*, or * for any (unset: none; standalone: http://localhost:* and http://127.0.0.1:*)
    #[arg(long, env, value_delimiter = ',')]
    pub cors_origins: Vec<AllowedOrigin>,
    /// Headers that pages of these origins may send, separated by commas, or * for any
    #[arg(long, env, value_delimiter = ',', default_value = USUAL_HEADERS, value_parser = parse_header)]
    pub cors_headers: Vec<HeaderName>,
    /// Number of proxies in front of this service whose entries in X-Forwarded-For, and whose X-Forwarded-Host, are trusted
    #[arg(long, env, default_value_t = 0)]
    pub trusted_proxies: usize,
    /// Serve the pages /admin and /shop; standalone always does
    #[arg(long, env)]
    pub dashboard: bool,
    /// Language and region in which /admin writes numbers, amounts and dates, such as pt-BR (unset: those of the browser)
    #[arg(long, env, value_parser = parse_locale)]
    pub shop_locale: Option<String>,
    /// Time zone of the days in /admin, such as America/Sao_Paulo (unset: that of the browser)
    #[arg(long, env)]
    pub shop_time_zone: Option<Tz>,
    /// Add the fields _service and _entities to the schema, so that a gateway can compose it with others (Apollo Federation 2)
    #[arg(long, env)]
    pub federation: bool,
    /// Close a connection that is idle for this long, at least 1s; set it higher than the idle timeout of the load balancer
    #[arg(long, env, default_value = "75s", value_parser = duration_from(Duration::from_secs(1)))]
    pub idle_timeout: Duration,
    /// Keep serving for this long after SIGTERM while /health/ready returns 503, so that the load balancer notices
    #[arg(long, env, default_value = "0s", value_parser = duration)]
    pub drain_delay: Duration,
    #[command(flatten)]
    pub oidc: OidcSettings,
}

/// A language with an optional script and an optional region (RFC 5646), which are all that formats depend on.
fn parse_locale(tag: &str) -> Result<String, &'static str> {
    let is = |part: &str, lengths: RangeInclusive<usize>| {
        lengths.contains(&part.len()) && part.bytes().all(|letter| letter.is_ascii_alphabetic())
    };
    let mut parts = tag.split('-').peekable();
    let has_language = parts.next().is_some_and(|language| is(language, 2..=3));
    parts.next_if(|script| is(script, 4..=4));
    parts
        .next_if(|region| is(region, 2..=2) || region.len() == 3 && region.bytes().all(|digit| digit.is_ascii_digit()));
    let is_valid = has_language && parts.next().is_none();
    is_valid.then(|| tag.to_owned()).ok_or("not a language with an optional region, such as en, pt-BR or es-419")
}

fn parse_header(name: &str) -> Result<HeaderName, InvalidHeaderName> {
    name.trim().parse()
}

impl HttpSettings {
    pub fn allows_origin(&self, origin: &str) -> bool {
        self.cors_origins.iter().any(|allowed| allowed.matches(origin))
    }

    /// The layer that responds to preflight requests; `None` if no other origin is allowed.
    pub fn cors(&self) -> Option<CorsLayer> {
        if self.cors_origins.is_empty() {
            return None;
        }
        let origins = match self.cors_origins.contains(&AllowedOrigin::Any) {
            true => AllowOrigin::any(),
            false => {
                let settings = self.clone();
                AllowOrigin::predicate(move |origin, _| origin.to_str().is_ok_and(|text| settings.allows_origin(text)))
            }
        };
        let headers = match self.cors_headers.iter().any(|name| name == "*") {
            // `*` would exclude `Authorization`.
            true => AllowHeaders::mirror_request(),
            false => AllowHeaders::list(self.cors_headers.clone()),
        };
        let cors = CorsLayer::new()
            .allow_origin(origins)
            .allow_methods([Method::GET, Method::POST])
            .allow_headers(headers)
            .expose_headers([RETRY_AFTER, HeaderName::from_static("x-request-id")])
            .max_age(PREFLIGHT_MAX_AGE);
        Some(cors)
    }
}

/// How much of the schema clients can see.
#[derive(Clone, Debug)]
pub enum SchemaExposure {
    Hidden,
    /// Clients can query the schema.
    Introspection,
    /// Introspection and the GraphiQL page.
    Graphiql {
        /// The tokens that pages send until the user enters another one. Anyone who can open a page can use them.
        tokens: Option<PageTokens>,
    },
}

impl SchemaExposure {
    pub fn has_page(&self) -> bool {
        matches!(self, SchemaExposure::Graphiql { .. })
    }

    pub fn page_tokens(&self) -> Option<&PageTokens> {
        match self {
            SchemaExposure::Graphiql { tokens } => tokens.as_ref(),
            _ => None,
        }
    }

    pub fn allows_introspection(&self) -> bool {
        !matches!(self, SchemaExposure::Hidden)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_locale_is_a_language_with_an_optional_script_and_region() {
        for tag in ["en", "pt-BR", "de-CH", "zh-Hant-TW", "es-419", "fil"] {
            assert_eq!(parse_locale(tag).as_deref(), Ok(tag));
        }
        for tag in ["", "-", "x", "en_US", "en-", "en-x", "en-US-posix", "english", "12", "pt-BR\n"] {
            assert!(parse_locale(tag).is_err(), "{tag}");
        }
    }
}

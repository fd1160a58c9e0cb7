//! Settings of the HTTP edge.

use std::time::Duration;

use axum::http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderName, HeaderValue, Method};
use runtime::duration_from;
use tower_http::cors::{AllowOrigin, CorsLayer};

/// How long browsers may cache the response to a CORS preflight request.
const PREFLIGHT_MAX_AGE: Duration = Duration::from_secs(3600);

#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "HTTP")]
pub struct HttpSettings {
    /// Accept queries with GET as well as POST
    #[arg(long, env, default_value_t = true, action = clap::ArgAction::Set)]
    pub graphql_get: bool,
    /// Origins that may call /graphql from a browser, separated by commas, or * for any (unset: none)
    #[arg(long, env, value_delimiter = ',', value_parser = parse_origin)]
    pub cors_origins: Vec<HeaderValue>,
    /// Number of proxies in front of this service whose X-Forwarded-For entries are trusted
    #[arg(long, env, default_value_t = 0)]
    pub trusted_proxies: usize,
    /// Serve the pages /dashboard and /shop
    #[arg(long, env)]
    pub dashboard: bool,
    /// Close a connection that is idle for this long or takes longer to send headers, at least 1s; set it higher than the idle timeout of the load balancer
    #[arg(long, env, default_value = "75s", value_parser = duration_from(Duration::from_secs(1)))]
    pub idle_timeout: Duration,
    /// Keep serving for this long after SIGTERM while /health/ready returns 503, so that the load balancer notices
    #[arg(long, env, default_value = "0s", value_parser = humantime::parse_duration)]
    pub drain_delay: Duration,
}

/// Parses an origin as browsers send it (RFC 6454, section 6.2): in lower case, without the default port.
fn parse_origin(text: &str) -> Result<HeaderValue, String> {
    let text = text.trim().to_ascii_lowercase();
    let default_port = if text.starts_with("https:") { ":443" } else { ":80" };
    let origin = text.strip_suffix(default_port).unwrap_or(&text);
    let host = origin.strip_prefix("https://").or(origin.strip_prefix("http://"));
    if !matches!(origin, "*" | "") && host.is_none_or(|host| host.is_empty() || host.contains(['/', ' '])) {
        return Err("expected an origin such as https://shop.example.com, or *".into());
    }
    origin.parse().map_err(|_| "contains a character that is not allowed in an origin".into())
}

impl HttpSettings {
    pub fn allows_origin(&self, origin: &HeaderValue) -> bool {
        self.allows_any_origin() || self.cors_origins.contains(origin)
    }

    fn allows_any_origin(&self) -> bool {
        self.cors_origins.iter().any(|origin| origin == "*")
    }

    /// The layer that responds to preflight requests; `None` if no other origin is allowed.
    pub fn cors(&self) -> Option<CorsLayer> {
        if self.cors_origins.is_empty() {
            return None;
        }
        let origins = match self.allows_any_origin() {
            true => AllowOrigin::any(),
            false => AllowOrigin::list(self.cors_origins.clone()),
        };
        let headers = [ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderName::from_static("traceparent")];
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
        /// The token that the page sends until the user enters another one. Anyone who can open the page can use it.
        token: Option<String>,
    },
}

impl SchemaExposure {
    pub fn has_page(&self) -> bool {
        matches!(self, SchemaExposure::Graphiql { .. })
    }

    pub fn page_token(&self) -> Option<&str> {
        match self {
            SchemaExposure::Graphiql { token } => token.as_deref(),
            _ => None,
        }
    }

    pub fn allows_introspection(&self) -> bool {
        !matches!(self, SchemaExposure::Hidden)
    }
}

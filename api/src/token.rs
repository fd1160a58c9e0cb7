//! `api token`: creates a token for development.

use std::time::Duration;

use anyhow::{Context, anyhow};
use api::edge::auth::{SCOPES, TokenSettings};
use chrono::DateTime;
use jsonwebtoken::dangerous::insecure_decode;
use runtime::settings::duration_between;
use runtime::{print_advice, print_line};
use serde_json::{Map, Value};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(clap::Args)]
pub struct Arguments {
    #[arg(long, value_parser = parse_scopes, help = format!("Scopes separated by spaces: {}", SCOPES.join(", ")))]
    scope: String,
    /// Id of the only client that the token may act for (unset: any)
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(i64).range(1..))]
    client: Option<i64>,
    /// Lifetime of the token, such as 15m or 8h, from 1s to 366d
    #[arg(long, default_value = "1h", value_parser = duration_between(Duration::from_secs(1), 366 * DAY))]
    ttl: Duration,
    /// Subject of the token
    #[arg(long, default_value = "developer", value_parser = parse_subject)]
    subject: String,
    #[command(flatten)]
    tokens: TokenSettings,
}

fn parse_scopes(text: &str) -> Result<String, String> {
    let scopes: Vec<&str> = text.split_whitespace().collect();
    match scopes.iter().find(|scope| !SCOPES.contains(scope)) {
        None if scopes.is_empty() => Err(format!("name at least one of {}", SCOPES.join(", "))),
        None => Ok(scopes.join(" ")),
        Some(unknown) => Err(format!("there is no scope {unknown}; the scopes are {}", SCOPES.join(", "))),
    }
}

fn parse_subject(text: &str) -> Result<String, &'static str> {
    if text.trim().is_empty() { Err("must not be empty") } else { Ok(text.to_owned()) }
}

impl Arguments {
    /// Prints the token, and its claims to standard error.
    pub fn run(self) -> anyhow::Result<()> {
        let client = self.client.map(|id| id.to_string());
        let token = self.tokens.mint(&self.subject, &self.scope, client.as_deref(), self.ttl)?;
        let claims = insecure_decode::<Map<String, Value>>(&token).context("cannot read the new token")?.claims;
        self.tokens.check(claims.clone()).map_err(|reason| anyhow!("the api would refuse the token: {reason}"))?;
        let expires =
            claims.get("exp").and_then(Value::as_i64).and_then(|seconds| DateTime::from_timestamp(seconds, 0));
        let expires = expires.map(|time| time.format("; it expires at %F %T UTC").to_string()).unwrap_or_default();
        print_line(token);
        print_advice(format_args!("The claims of the token: {}{expires}", Value::Object(claims)));
        Ok(())
    }
}

//! Settings of all limits. The cost depends on the variables, so [`cost`](super::cost) measures each request;
//! [`measure`](super::measure) measures documents.

use std::time::Duration;

use anyhow::ensure;
use async_graphql::ServerError;
use clap::builder::RangedU64ValueParser;
use runtime::settings::duration;

use crate::edge::rate_limits::SubjectLimit;
use crate::edge::refusal;

#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitSettings {
    /// Maximum size of a request body or WebSocket message, in bytes, up to 16777216
    #[arg(long, env, default_value_t = 65_536, value_parser = RangedU64ValueParser::<usize>::new().range(1..=16_777_216))]
    pub max_body_bytes: usize,
    /// Maximum number of tokens (names, values and punctuation) in a document
    #[arg(long, env, default_value_t = 2_000, value_parser = at_least_one())]
    pub max_tokens: usize,
    /// Maximum length of a name or alias in a document, in bytes
    #[arg(long, env, default_value_t = 100, value_parser = at_least_one())]
    pub max_name_length: usize,
    /// Maximum depth of nested brackets in a document and of nested selections after expanding fragments, from 1 to 64
    #[arg(long, env, default_value_t = 32, value_parser = parse_nesting)]
    pub max_nesting: usize,
    /// Maximum number of selections in a document after expanding fragments
    #[arg(long, env, default_value_t = 2_000, value_parser = at_least_one())]
    pub max_selections: usize,
    /// Maximum number of aliases in an operation
    #[arg(long, env, default_value_t = 30)]
    pub max_aliases: usize,
    /// Maximum number of root fields of a query or subscription
    #[arg(long, env, default_value_t = 20, value_parser = at_least_one())]
    pub max_root_fields: usize,
    /// Maximum number of root fields of a mutation
    #[arg(long, env, default_value_t = 10, value_parser = at_least_one())]
    pub max_mutation_fields: usize,
    /// Maximum number of directives in an operation
    #[arg(long, env, default_value_t = 20)]
    pub max_directives: usize,
    /// Maximum depth of nested fields; introspection may always nest 20
    #[arg(long, env, default_value_t = 10, value_parser = at_least_one())]
    pub max_depth: usize,
    /// Maximum cost of an operation. A field costs 1, a root field of a mutation 20, and a line of an order 1, multiplied by the sizes of the lists around it
    #[arg(long, env, default_value_t = 1_000, value_parser = at_least_one())]
    pub max_complexity: usize,
    /// Maximum size of a response in bytes, estimated before execution from names, lists and the longest values, with the memory of the variables
    #[arg(long, env, default_value_t = 8 * 1024 * 1024, value_parser = at_least_one())]
    pub max_response_bytes: usize,
    /// Memory for responses until they are sent, and for variables, in bytes; one caller gets at most about an eighth of it. Further operations wait for a second, then get status 503
    #[arg(long, env, default_value_t = 128 * 1024 * 1024, value_parser = at_least_one())]
    pub max_response_memory: usize,
    /// Time limit of an operation, such as 5s. An order that is already being placed is still placed
    #[arg(long, env, default_value = "5s", value_parser = duration)]
    pub operation_timeout: Duration,
    /// Maximum number of concurrent queries and mutations. Further ones get status 503
    #[arg(long, env, default_value_t = 512, value_parser = count())]
    pub max_concurrent_operations: usize,
    /// The same for one caller: a token subject, or an address without a token
    #[arg(long, env, default_value_t = 128, value_parser = count())]
    pub max_operations_per_caller: usize,
    /// Maximum number of queries that wait for a version of a client (minVersion), besides the concurrent operations. Further ones get status 503
    #[arg(long, env, default_value_t = 1_024, value_parser = count())]
    pub max_waiting_operations: usize,
    /// The same for one caller: a token subject, or an address without a token
    #[arg(long, env, default_value_t = 128, value_parser = count())]
    pub max_waiting_per_caller: usize,
    /// Maximum number of active subscriptions. Further ones get SERVER_BUSY
    #[arg(long, env, default_value_t = 20_000, value_parser = count())]
    pub max_subscriptions: usize,
    /// The same for one caller: a token subject, or an address without a token
    #[arg(long, env, default_value_t = 1_000, value_parser = count())]
    pub max_subscriptions_per_caller: usize,
    /// Maximum number of open connections, at least MAX_LIVE_CONNECTIONS. Further ones are closed at once. A tenth may take longer than a second to send the headers of a request (unset: twice MAX_LIVE_CONNECTIONS)
    #[arg(long, env, value_parser = count())]
    pub max_connections: Option<usize>,
    /// Maximum number of open WebSockets and event streams. Further ones get status 503
    #[arg(long, env, default_value_t = 10_000, value_parser = count())]
    pub max_live_connections: usize,
    /// The same for one caller: a token subject, or an address without a token
    #[arg(long, env, default_value_t = 1_000, value_parser = count())]
    pub max_live_connections_per_caller: usize,
    /// Maximum number of active operations on one WebSocket
    #[arg(long, env, default_value_t = 100, value_parser = at_least_one())]
    pub max_streams: usize,
    /// Maximum cost per second for one caller: a token subject, or an address without a token (0: unlimited). Each result of a subscription costs as much as a query
    #[arg(long, env, default_value_t = 5_000)]
    pub rate_limit: u32,
    /// Other limits of trusted subjects, separated by commas, such as importer=20000,partner=0 (0: unlimited)
    #[arg(long, env, value_delimiter = ',')]
    pub rate_limit_subjects: Vec<SubjectLimit>,
}

/// Connections for each WebSocket and event stream that may be open. The others send requests or are idle.
const CONNECTIONS_PER_LIVE_ONE: usize = 2;

fn count() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=1_000_000)
}

/// Nothing is within a limit of 0.
fn at_least_one() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..)
}

/// The upper bound protects the stack, because parsers recurse.
fn parse_nesting(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|levels| (1..=64).contains(levels)).ok_or_else(|| "must be from 1 to 64".into())
}

impl LimitSettings {
    /// # Errors
    /// When not all live connections could be open.
    pub fn max_connections(&self) -> anyhow::Result<usize> {
        let (live, max) = (self.max_live_connections, self.max_connections);
        let max = max.unwrap_or(CONNECTIONS_PER_LIVE_ONE * live);
        ensure!(max >= live, "MAX_CONNECTIONS ({max}) must be at least MAX_LIVE_CONNECTIONS ({live})");
        Ok(max)
    }

    /// Refuses an operation that costs too much.
    pub fn check_cost(&self, cost: usize) -> Result<(), ServerError> {
        if cost > self.max_complexity {
            let message = format!("The operation costs {cost}, more than the maximum of {}.", self.max_complexity);
            return Err(refusal::error("MAX_COMPLEXITY_LIMIT", message, None));
        }
        Ok(())
    }

    /// Refuses an operation whose response and variables could be too large.
    pub fn check_response(&self, bytes: usize) -> Result<(), ServerError> {
        if bytes > self.max_response_bytes {
            let message = format!(
                "The response and the variables could have {bytes} bytes, more than the maximum of {}. Ask for fewer fields or elements.",
                self.max_response_bytes
            );
            return Err(refusal::error("MAX_RESPONSE_LIMIT", message, None));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        limits: LimitSettings,
    }

    #[test]
    fn a_limit_that_nothing_can_meet_is_refused() {
        let limits = Cli::command();
        let limits =
            limits.get_arguments().filter_map(|argument| argument.get_long()).filter(|name| name.starts_with("max-"));
        let accepts_zero = |name: &&str| Cli::try_parse_from(["test", &format!("--{name}"), "0"]).is_ok();
        assert_eq!(limits.filter(accepts_zero).collect::<Vec<_>>(), ["max-aliases", "max-directives"]);
    }
}

//! Settings. Each is an environment variable and a flag, and all programs read them in the same way:
//!
//! - An empty variable counts as not set. A variable that begins or ends with white space is refused.
//! - A switch takes `true`, `yes`, `on` or `1`, and their opposites, in upper or lower case.
//! - An error names the variable. `--help` has one line for each setting, and never the value of a variable.

use std::env;
use std::ffi::OsStr;
use std::io::{IsTerminal, stdout};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use clap::builder::Resettable;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Command, Error, Parser};
use tokio::net::TcpListener;

/// Secrets are taken exactly as they are.
const VERBATIM: [&str; 3] = ["JWT_SECRET", "REDIS_PASSWORD", "REDIS_USERNAME"];
/// More is allowed without these settings. An empty value is probably a mistake, so it is refused.
const RESTRICTIONS: [&str; 5] =
    ["JWT_AUDIENCE", "JWT_ISSUER", "JWT_OAUTH_CLIENTS", "JWT_REQUIRE_CLIENT", "TRUSTED_DOCUMENTS"];
/// The longest duration of a setting: ten years. No time overflows when it is added.
const LONGEST: Duration = Duration::from_secs(3650 * 24 * 60 * 60);

/// Parses the command line and the environment of a program. Ends the program after `--help` and `--version`, and when
/// something is wrong.
pub fn parse<Cli: Parser>() -> Cli {
    let mut command = prepare(Cli::command());
    if !stdout().is_terminal() {
        command = command.term_width(0); // no line breaks, so that grep finds whole settings
    }
    let parsed = command.try_get_matches_from_mut(env::args_os());
    let parsed = match parsed {
        Err(error) if !error.use_stderr() => Err(error), // the output of --help or --version
        parsed => check_variables(&mut command).and(parsed),
    };
    let cli = parsed.and_then(|matches| Cli::from_arg_matches(&matches));
    cli.unwrap_or_else(|error| name_variables(error, &Cli::command()).exit())
}

fn prepare(command: Command) -> Command {
    command.mut_args(prepare_argument).mut_subcommands(prepare)
}

fn prepare_argument(mut argument: Arg) -> Arg {
    let Some(variable) = argument.get_env().map(|name| name.to_string_lossy().into_owned()) else { return argument };
    argument = argument.hide_env_values(true);
    if is_switch(&argument) {
        argument = argument.value_parser(parse_switch);
    }
    if argument.get_value_names().is_some_and(|names| names.iter().all(|name| **name == *variable)) {
        argument = argument.value_name("VALUE"); // the name of the variable is on the line already
    }
    let is_empty = env::var_os(&variable).is_some_and(|value| value.to_string_lossy().trim().is_empty());
    if is_empty && !RESTRICTIONS.contains(&&*variable) {
        argument = argument.env(Resettable::Reset);
    }
    argument
}

fn is_switch(argument: &Arg) -> bool {
    let values = argument.get_possible_values();
    let is_bool = values.iter().map(|value| value.get_name()).eq(["true", "false"]);
    is_bool || matches!(argument.get_action(), ArgAction::SetTrue)
}

fn parse_switch(text: &str) -> Result<bool, String> {
    match &*text.to_ascii_lowercase() {
        "true" | "t" | "yes" | "y" | "on" | "1" => Ok(true),
        "false" | "f" | "no" | "n" | "off" | "0" => Ok(false),
        _ => Err("write true or false".into()),
    }
}

/// Refuses values of variables that a parser could not explain.
fn check_variables(command: &mut Command) -> Result<(), Error> {
    let variables = arguments(command).into_iter().filter_map(Arg::get_env);
    let problem = variables.filter_map(|name| Some((name.to_str()?, env::var_os(name)?)));
    match problem.filter_map(|(name, value)| problem_of(name, &value)).next() {
        Some(problem) => Err(command.error(ErrorKind::InvalidValue, problem)),
        None => Ok(()),
    }
}

fn problem_of(name: &str, value: &OsStr) -> Option<String> {
    let Some(text) = value.to_str() else { return Some(format!("{name} is not valid UTF-8")) };
    if text.trim().is_empty() {
        let is_refused = RESTRICTIONS.contains(&name);
        return is_refused.then(|| format!("{name} is empty: give it a value, or unset it to have no restriction"));
    }
    let is_refused = text.trim() != text && !VERBATIM.contains(&name);
    is_refused.then(|| {
        format!("{name} begins or ends with white space: remove it. It may be the line ending of a file from Windows")
    })
}

/// Replaces flags in an error by their variables.
fn name_variables(mut error: Error, command: &Command) -> Error {
    let named = |text: &String| {
        let flag = text.split(' ').next().and_then(|flag| flag.strip_prefix("--"));
        let arguments = arguments(command).into_iter();
        let variable = arguments.filter(|argument| argument.get_long() == flag).find_map(Arg::get_env);
        match (flag, variable) {
            (Some(flag), Some(variable)) => format!("{} (--{flag})", variable.display()),
            _ => text.clone(),
        }
    };
    let replaced = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(argument)) => ContextValue::String(named(argument)),
        Some(ContextValue::Strings(arguments)) => ContextValue::Strings(arguments.iter().map(named).collect()),
        _ => return error,
    };
    error.insert(ContextKind::InvalidArg, replaced);
    error
}

/// The arguments of a command and of its subcommands.
fn arguments(command: &Command) -> Vec<&Arg> {
    let mut all: Vec<&Arg> = command.get_arguments().collect();
    all.extend(command.get_subcommands().flat_map(arguments));
    all
}

/// Parses a duration such as `500ms` or `8h`.
pub fn duration(text: &str) -> Result<Duration, String> {
    duration_from(Duration::ZERO)(text)
}

/// Returns a parser of durations that refuses those below `least`.
pub fn duration_from(least: Duration) -> impl Fn(&str) -> Result<Duration, String> + Clone {
    duration_between(least, LONGEST)
}

/// Returns a parser of durations from `least` to `most`, which is whole days.
pub fn duration_between(least: Duration, most: Duration) -> impl Fn(&str) -> Result<Duration, String> + Clone {
    move |text| match humantime::parse_duration(text) {
        Ok(duration) if duration < least => Err(format!("must be at least {}", humantime::format_duration(least))),
        Ok(duration) if duration > most => Err(format!("must be at most {}d", most.as_secs() / (24 * 60 * 60))),
        Ok(duration) => Ok(duration),
        Err(error) => Err(error.to_string()),
    }
}

/// Parses an address to listen on, such as `127.0.0.1:8080` or `localhost:8080`.
pub fn listen_address(text: &str) -> Result<SocketAddr, String> {
    let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
    let port = port.parse::<u16>();
    match (text.parse(), host, &port) {
        (Ok(address), ..) => Ok(address),
        (Err(_), "localhost", Ok(port)) => Ok((Ipv4Addr::LOCALHOST, *port).into()),
        _ => {
            let port = port.unwrap_or(8080);
            Err(format!("write 127.0.0.1:{port} to serve only this machine, or 0.0.0.0:{port} to serve all networks"))
        }
    }
}

/// Listens on the address of a setting.
///
/// # Errors
/// With the name of the variable, and why the operating system refused.
pub async fn listen(address: SocketAddr, variable: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address} ({variable})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_take_the_usual_words() {
        assert!(["true", "TRUE", "yes", "1", "on"].into_iter().all(|text| parse_switch(text) == Ok(true)));
        assert!(["false", "False", "no", "0", "OFF"].into_iter().all(|text| parse_switch(text) == Ok(false)));
        assert!(["2", "maybe", ""].into_iter().all(|text| parse_switch(text).is_err()));
    }

    #[test]
    fn durations_have_bounds() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("99999999999d").unwrap_err(), "must be at most 3650d");
        assert_eq!(duration_from(Duration::from_secs(1))("10ms").unwrap_err(), "must be at least 1s");
        assert!(duration("5").unwrap_err().contains("time unit needed"));
        assert!(["", "-1s", "s", "99999999999999999999999d"].into_iter().all(|text| duration(text).is_err()));
    }

    #[test]
    fn an_address_without_a_host_is_explained() {
        assert_eq!(listen_address("localhost:80").unwrap().to_string(), "127.0.0.1:80");
        assert_eq!(listen_address("[::]:80").unwrap().to_string(), "[::]:80");
        for (text, port) in [(":81", 81), ("81", 81), ("orders.example.com:81", 81), ("127.0.0.1", 8080), ("", 8080)] {
            let error = listen_address(text).unwrap_err();
            assert!(
                error.contains(&format!("127.0.0.1:{port}")) && error.contains(&format!("0.0.0.0:{port}")),
                "{error}"
            );
        }
    }
}

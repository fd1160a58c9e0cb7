//! Parsing the command line and the environment.

use std::env;
use std::ffi::OsStr;
use std::io::{IsTerminal, stdout};

use clap::builder::Resettable;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Command, Error, Parser};

/// Secrets are taken exactly as they are.
const VERBATIM: [&str; 3] = ["JWT_SECRET", "REDIS_PASSWORD", "REDIS_USERNAME"];
/// More is allowed without these settings. An empty value is probably a mistake, so it is refused.
const RESTRICTIONS: [&str; 6] =
    ["CANCEL_WINDOW", "JWT_AUDIENCE", "JWT_ISSUER", "JWT_OAUTH_CLIENTS", "JWT_REQUIRE_CLIENT", "TRUSTED_DOCUMENTS"];

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_take_the_usual_words() {
        assert!(["true", "TRUE", "yes", "1", "on"].into_iter().all(|text| parse_switch(text) == Ok(true)));
        assert!(["false", "False", "no", "0", "OFF"].into_iter().all(|text| parse_switch(text) == Ok(false)));
        assert!(["2", "maybe", ""].into_iter().all(|text| parse_switch(text).is_err()));
    }
}

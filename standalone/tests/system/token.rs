//! `api token`.

use serde_json::{Value, json};
use test_support::process::Process;
use test_support::user::SECRET;

use crate::start::fails;

#[test]
fn a_useless_token_is_refused() {
    let secret = [("JWT_SECRET", SECRET)];
    for (arguments, texts) in [
        (&["--scope", "orders:plaice"][..], &["there is no scope orders:plaice", "orders:place"][..]),
        (&["--scope", " "], &["name at least one of"]),
        (&["--scope", "clients:read", "--subject", " "], &["--subject", "empty"]),
        (&["--scope", "clients:read", "--subject", "a\nb"], &["`sub`"]),
        (&["--scope", "clients:read", "--subject", &"x".repeat(256)], &["`sub`", "255"]),
        (&["--scope", "clients:read", "--jwt-require-client"], &["`orders_client` is missing"]),
        (&["--scope", "clients:read", "--client", ""], &["--client"]),
        (&["--scope", "clients:read", "--client", "0"], &["--client"]),
        (&["--scope", "clients:read", "--client=-1"], &["--client"]),
        (&["--scope", "clients:read", "--client", "Bob"], &["'Bob'", "--client"]),
        (&["--scope", "clients:read", "--ttl", "0s"], &["--ttl", "at least 1s"]),
        (&["--scope", "clients:read", "--ttl", "999999d"], &["--ttl", "at most 366d"]),
        (&[], &["--scope"]),
    ] {
        fails("api", &[&["token"], arguments].concat(), &secret, texts);
    }
}

#[test]
fn the_claims_of_a_new_token_are_printed_beside_it() {
    let arguments =
        ["token", "--scope", "  clients:write orders:place", "--client", "7", "--subject", "Bob", "--ttl", "90s"];
    let variables = [("JWT_SECRET", SECRET), ("JWT_ISSUER", "us"), ("JWT_SCOPE_PREFIX", "shop/")];
    let process = Process::start("api", &arguments, &variables);
    let output = process.output();
    assert!(process.wait().success());
    let lines = output.all();
    let line = lines.iter().find_map(|line| line.strip_prefix("The claims of the token: ")).unwrap();
    let (claims, expires) = line.split_once("; it expires at ").unwrap();
    let mut claims: Value = serde_json::from_str(claims).unwrap();
    let (from, to) = (claims["iat"].take().as_i64().unwrap(), claims["exp"].take().as_i64().unwrap());
    assert_eq!(to - from, 90);
    assert!(expires.ends_with(" UTC"), "{expires}");
    let expected = json!({ "sub": "Bob", "scope": "shop/clients:write shop/orders:place", "orders_client": "7", "iss": "us",
        "iat": null, "exp": null });
    assert_eq!(claims, expected);
}

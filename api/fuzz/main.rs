//! Everything that callers send gets a response without a panic, an internal error, or more than 100 ms of CPU time. libFuzzer
//! invents the bytes, and `FUZZ_TARGET` says what they are. `scripts/fuzz` runs each target.
//!
//! - [`request`]: bodies of requests, and the variables of operations
//! - [`websocket`]: messages on a WebSocket
//! - [`jwks`]: documents with public keys
//! - [`service`]: the api that receives them

#![no_main]

mod jwks;
mod request;
mod service;
mod websocket;

use std::env;
use std::sync::LazyLock;
use std::time::Duration;

use cpu_time::ProcessTime;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

use self::service::SERVICE;

/// Of the whole process: validation runs on threads of its own. A WebSocket may use as much for each message.
const MAX_CPU_TIME: Duration = Duration::from_millis(100);

#[expect(clippy::disallowed_methods, reason = "libFuzzer owns the command line")]
static TARGET: LazyLock<String> = LazyLock::new(|| env::var("FUZZ_TARGET").expect("FUZZ_TARGET is not set"));

fuzz_target!(|input: &[u8]| {
    let service = &*SERVICE; // started before the time counts
    let began = ProcessTime::now();
    let messages = match TARGET.as_str() {
        "request" => {
            service.runtime.block_on(request::send(service, input.to_vec()));
            1
        }
        "variables" => {
            service.runtime.block_on(request::send_variables(service, input));
            1
        }
        "websocket" => service.runtime.block_on(websocket::send(service, input)),
        "jwks" => jwks::parse(service, input),
        target => panic!("FUZZ_TARGET is {target}, which is no target"),
    };
    let cpu_time = began.elapsed();
    assert!(cpu_time < MAX_CPU_TIME * messages, "{cpu_time:?} of CPU time for {messages} messages");
});

/// Every error of a response has a code, and is not an internal error. Returns the codes.
fn check_errors<'a>(errors: impl IntoIterator<Item = &'a Value>) -> Vec<String> {
    let code = |error: &Value| {
        let code = error["extensions"]["code"].as_str().expect("an error has no code");
        assert!(code != "INTERNAL_SERVER_ERROR", "{error}");
        code.to_owned()
    };
    errors.into_iter().map(code).collect()
}

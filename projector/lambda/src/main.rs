//! The projector as an AWS Lambda function: applies the messages that an event source mapping receives. `projector sweep` does
//! the rest of a projector's work, such as comparing the read model with the database.
//!
//! It is a separate crate, so that the other programs need neither the crates of Lambda nor a Cargo feature.

mod function;
mod password;

use std::env;
use std::sync::Arc;

use anyhow::{anyhow, ensure};
use clap::Parser;
use function::{Function, SqsEvent};
use lambda_runtime::{LambdaEvent, service_fn};
use read_model::RedisSettings;
use runtime::logging::{self, LogSettings};
use runtime::{Exit, telemetry};
use tracing::info;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Order service: applies events from the queue to the read model, as an AWS Lambda function
#[derive(Parser)]
#[command(version)]
#[command(next_help_heading = "Stores")]
struct Settings {
    /// ARN of a secret of AWS Secrets Manager with the password for Redis, instead of the password; it is read at each cold start
    #[arg(long, env, conflicts_with = "redis_password")]
    redis_password_secret: Option<String>,
    #[command(flatten)]
    read_model: RedisSettings,
    #[command(flatten)]
    log: LogSettings,
}

#[tokio::main]
async fn main() -> Exit {
    let settings = runtime::settings::parse();
    Exit::from(run(settings).await)
}

async fn run(settings: Settings) -> anyhow::Result<()> {
    let telemetry = telemetry::start("projector")?;
    logging::init(settings.log, &telemetry)?;
    // Otherwise the library would panic.
    let is_lambda = env::var_os("AWS_LAMBDA_RUNTIME_API").is_some();
    ensure!(is_lambda, "this program runs only as an AWS Lambda function; elsewhere run `projector`");

    let mut read_model = settings.read_model;
    if let Some(secret) = settings.redis_password_secret {
        read_model.redis_password = Some(password::read(&secret).await?);
    }
    let function = Function::new(Arc::new(read_model.connect().await?), read_model.currency);
    info!("ready");
    let invoke = |event: LambdaEvent<SqsEvent>| function.invoke(event.payload);
    let ended = lambda_runtime::run(service_fn(invoke)).await;
    ended.map_err(|error| anyhow!("the runtime of Lambda failed: {error}"))
}

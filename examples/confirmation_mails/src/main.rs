//! Runs until it is killed, which loses nothing, or until the queue cannot be reached: then a supervisor starts it again.

use aws_config::BehaviorVersion;
use clap::Parser;
use confirmation_mails::Mailer;
use lettre::message::Mailbox;
use lettre::{AsyncSmtpTransport, Tokio1Executor};

#[derive(Parser)]
struct Settings {
    /// URL of the queue of this program, which `projector queues create mails --topic orders` creates
    #[arg(long, env)]
    queue_url: String,
    /// PostgreSQL, such as postgres://user:password@host/database
    #[arg(long, env, hide_env_values = true)]
    database_url: String,
    /// Such as smtps://user:password@host, or smtp://127.0.0.1:25 without TLS
    #[arg(long, env, hide_env_values = true)]
    smtp_url: String,
    /// Sender of the mails, such as "Shop <shop@example.com>"
    #[arg(long, env)]
    from: Mailbox,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt::init();
    let settings = Settings::parse();
    let mailer = Mailer {
        sqs: aws_sdk_sqs::Client::new(&aws_config::load_defaults(BehaviorVersion::latest()).await),
        queue_url: settings.queue_url,
        db: sea_orm::Database::connect(settings.database_url).await?,
        smtp: AsyncSmtpTransport::<Tokio1Executor>::from_url(&settings.smtp_url)?.build(),
        from: settings.from,
    };
    mailer.create_table().await?;
    loop {
        mailer.run_once().await?;
    }
}

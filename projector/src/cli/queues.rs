//! `projector queues`

use clap::Subcommand;
use projector::queues;
use runtime::print_line;
use runtime::queue::aws_settings;

#[derive(Subcommand)]
pub enum Command {
    /// Create the queue and its dead-letter queue if they do not exist, and print their URLs
    Create {
        /// Name of the queue; the dead-letter queue is called NAME-dead-letters
        #[arg(default_value = "orders")]
        name: String,
    },
}

impl Command {
    pub async fn run(self) -> anyhow::Result<()> {
        let Command::Create { name } = self;
        for queue in queues::create(&queues::client(&aws_settings().await?), &name).await? {
            let state = if queue.created { "created" } else { "exists" };
            print_line(format_args!("{state:<8} {:<24} {}", queue.name, queue.url));
        }
        Ok(())
    }
}

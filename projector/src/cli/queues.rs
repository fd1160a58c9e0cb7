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
        /// Also create an SNS topic of this name, and subscribe the queue to it
        #[arg(long, value_name = "NAME")]
        topic: Option<String>,
    },
}

impl Command {
    pub async fn run(self) -> anyhow::Result<()> {
        let Command::Create { name, topic } = self;
        let settings = aws_settings().await?;
        let sqs = queues::client(&settings);
        let created = queues::create(&sqs, &name).await?;
        for queue in &created {
            let state = if queue.created { "created" } else { "exists" };
            print_line(format_args!("{state:<8} {:<24} {}", queue.name, queue.url));
        }
        if let Some(topic) = topic {
            let arn = queues::subscribe(&queues::sns_client(&settings), &sqs, &created, &topic).await?;
            print_line(format_args!("{:<8} {topic:<24} {arn}", "topic"));
        }
        Ok(())
    }
}

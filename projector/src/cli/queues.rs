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
        let print = |created: bool, name: &str, address: &str| {
            print_line(format_args!("{:<8} {name:<24} {address}", if created { "created" } else { "exists" }));
        };
        let created = queues::create(&sqs, &name).await?;
        for queue in &created {
            print(queue.created, &queue.name, &queue.url);
        }
        if let Some(topic) = topic {
            let sns = queues::sns_client(&settings);
            let subscribed = queues::subscribe(&sns, &sqs, &created, &topic).await?;
            print(subscribed.created, &topic, &subscribed.arn);
        }
        Ok(())
    }
}

//! The `projector` process: configure, connect, project, drain. And the commands of whoever operates it.

use std::future::IntoFuture;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use chrono::{DateTime, Utc};
use clap::{Parser, Subcommand};
use process::logging::{self, LogSettings};
use process::{database, queue::aws_settings};
use projector::consumer::{self, Consumer};
use projector::dead_letters::{Action, DeadLetter, DeadLetters};
use projector::progress::Progress;
use projector::replay::Selection;
use projector::sweep::Sweep;
use projector::verify::{CONCURRENT, Finding, Verifier};
use projector::{health, queues, replay};
use serde_json::json;
use tokio::net::TcpListener;
use tracing::info;
use uuid::Uuid;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Order service: projects events from the queue into the read model
///
/// Without a command it consumes the queue. Settings are environment variables, each also a flag.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    settings: Settings,
}

#[derive(clap::Args)]
struct Settings {
    /// Address to serve health on
    #[arg(long, env, default_value = "127.0.0.1:8081")]
    listen_addr: SocketAddr,
    /// URL of the SQS queue; region, credentials and endpoint are the AWS SDK's own AWS_* variables
    #[arg(long, env)]
    queue_url: Option<String>,
    /// Receiving calls under way at once; each also applies what it receives
    #[arg(long, env, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pollers: u16,
    /// Command database; where it is given, what the read model lacks is noticed and healed
    #[arg(long, env, hide_env_values = true)]
    database_url: Option<String>,
    /// How often clients are compared with the command database, those that changed lately first
    #[arg(long, env, default_value = "10s", value_parser = humantime::parse_duration)]
    sweep_interval: Duration,
    /// How long after its publication an event counts as on its way to the read model
    #[arg(long, env, default_value = "1m", value_parser = humantime::parse_duration)]
    in_flight: Duration,
    #[command(flatten)]
    read_model: read_model::RedisSettings,
    #[command(flatten)]
    log: LogSettings,
}

#[derive(Subcommand)]
enum Command {
    /// Manages the SQS queues
    #[command(subcommand)]
    Queues(Queues),
    /// Tells of messages that were not applied, and redrives or discards them
    DeadLetters {
        #[command(subcommand)]
        command: DeadLettersCommand,
        #[command(flatten)]
        of: OfDeadLetters,
    },
    /// Applies the event log to the read model once more; safe at any time, and to interrupt
    Replay {
        #[command(flatten)]
        of: OfStores,
        /// Only the events of this client
        #[arg(long, value_name = "ID")]
        client: Option<i64>,
        /// Only events since this time, such as 2026-01-31T12:00:00Z
        #[arg(long, value_name = "TIME", value_parser = parse_time)]
        since: Option<DateTime<Utc>>,
        /// Only events that follow this one in the log, to go on where a replay was interrupted
        #[arg(long, value_name = "EVENT")]
        after: Option<Uuid>,
    },
    /// Compares every client with the command database; safe at any time, and to interrupt
    ///
    /// Exit status: 0 when there is no difference, or all were repaired; 3 when there are some; 1 when it could not be done.
    Verify {
        #[command(flatten)]
        of: OfStores,
        /// Makes each client that differs what the event log says
        #[arg(long)]
        repair: bool,
        /// Only clients that follow this one, to go on where it was interrupted
        #[arg(long, value_name = "CLIENT", default_value_t = 0)]
        after: i64,
        /// How long after its publication an event counts as on its way to the read model
        #[arg(long, env, default_value = "1m", value_parser = humantime::parse_duration)]
        in_flight: Duration,
    },
}

#[derive(clap::Args)]
struct OfStores {
    /// Command database
    #[arg(long, env, hide_env_values = true)]
    database_url: String,
    /// Prints JSON, a line for each result
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    read_model: read_model::RedisSettings,
}

fn parse_time(text: &str) -> Result<DateTime<Utc>, String> {
    let time = DateTime::parse_from_rfc3339(text).map_err(|error| error.to_string())?;
    Ok(time.to_utc())
}

#[derive(clap::Args)]
struct OfDeadLetters {
    /// URL of the SQS queue whose dead letters they are
    #[arg(long, env, global = true)]
    queue_url: Option<String>,
    /// Prints JSON, a line for each letter
    #[arg(long, global = true)]
    json: bool,
    #[command(flatten)]
    read_model: read_model::RedisSettings,
}

#[derive(Subcommand)]
enum DeadLettersCommand {
    /// Lists them: what each is, and whether the read model needs it
    List,
    /// Shows one, with its body
    Show {
        /// The message's id, as `list` has it
        id: String,
    },
    /// Sends them to the queue again; all but foreign ones if no id is given
    Redrive {
        /// The messages' ids, as `list` has them
        ids: Vec<String>,
    },
    /// Deletes them; all but needed ones if no id is given
    Discard {
        /// The messages' ids, as `list` has them
        ids: Vec<String>,
    },
}

#[derive(Subcommand)]
enum Queues {
    /// Creates the queue and its dead-letter queue where they do not exist, and prints their URLs
    Create {
        /// Name of the queue; the other is NAME-dead-letters
        #[arg(default_value = "orders")]
        name: String,
    },
}

/// Of the sweep, to the database.
const SWEEP_CONNECTIONS: u32 = 4;
const SWEEP_TIMEOUT: Duration = Duration::from_secs(30);

/// Of a command that was interrupted, and of `verify` when it found differences.
const INTERRUPTED: u8 = 130;
const DIFFERENCES: u8 = 3;

#[tokio::main]
async fn main() -> ExitCode {
    run(Cli::parse()).await.unwrap_or_else(|error| process::exit(Err(error)))
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    logging::init(cli.settings.log)?;
    match cli.command {
        None => consume(cli.settings).await?,
        Some(Command::Queues(Queues::Create { name })) => {
            for queue in queues::create(&consumer::client(&aws_settings().await?), &name).await? {
                println!("{:<8} {:<24} {}", if queue.created { "created" } else { "exists" }, queue.name, queue.url);
            }
        }
        Some(Command::DeadLetters { command, of }) => dead_letters(command, of).await?,
        Some(Command::Replay { of, client, since, after }) => {
            return replay_log(of, Selection { client, since, after }).await;
        }
        Some(Command::Verify { of, repair, after, in_flight }) => return verify(of, repair, after, in_flight).await,
    }
    Ok(ExitCode::SUCCESS)
}

async fn replay_log(of: OfStores, selection: Selection) -> anyhow::Result<ExitCode> {
    let db = database::connect(&of.database_url, 2, None).await?;
    let (read_model, currency) = (of.read_model.connect().await?, of.read_model.currency);
    let shutdown = process::shutdown_signal()?;
    let (mut progress, mut last) = (Progress::new("events", None), None);
    let events = replay::replay(&db, &read_model, currency, &selection, |events, id| {
        progress.set(events);
        last = Some(id);
        if shutdown.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
    .await?;
    let seconds = progress.finish().as_secs_f64();
    let interrupted = shutdown.is_cancelled();
    if of.json {
        println!("{}", json!({ "events": events, "seconds": seconds, "last": last, "interrupted": interrupted }));
    } else {
        println!("{events} events replayed in {seconds:.1} s");
    }
    match last.filter(|_| interrupted) {
        Some(last) => {
            eprintln!("interrupted; --after {last} goes on");
            Ok(ExitCode::from(INTERRUPTED))
        }
        None => Ok(ExitCode::SUCCESS),
    }
}

async fn verify(of: OfStores, repair: bool, mut after: i64, in_flight: Duration) -> anyhow::Result<ExitCode> {
    let db = database::connect(&of.database_url, CONCURRENT as u32, None).await?;
    let (read_model, currency) = (of.read_model.connect().await?, of.read_model.currency);
    let verifier = Verifier { db, read_model, currency, in_flight, repair };
    let shutdown = process::shutdown_signal()?;
    let mut progress = Progress::new("clients", Some(verifier.clients_after(after).await?));
    let (mut clients, mut differences, mut remaining) = (0, 0, 0);
    let mut tell = |progress: &Progress, findings: Vec<Finding>| {
        for finding in findings {
            differences += 1;
            remaining += usize::from(!finding.repaired);
            progress.print(&match of.json {
                true => serde_json::to_string(&finding).unwrap_or_default(),
                false => finding.to_string(),
            });
        }
    };
    while !shutdown.is_cancelled()
        && let Some(page) = verifier.page(after).await?
    {
        (clients, after) = (clients + page.clients, page.last);
        progress.set(clients as u64);
        tell(&progress, page.findings);
    }
    let mut cursor = 0;
    while !shutdown.is_cancelled() {
        let (next, findings) = verifier.strangers(cursor).await?;
        tell(&progress, findings);
        cursor = next;
        if cursor == 0 {
            break;
        }
    }
    let (seconds, interrupted) = (progress.finish().as_secs_f64(), shutdown.is_cancelled());
    if of.json {
        println!(
            "{}",
            json!({ "clients": clients, "differences": differences, "remaining": remaining, "seconds": seconds,
                    "last": after, "interrupted": interrupted })
        );
    } else {
        let repaired = differences - remaining;
        println!("{clients} clients compared in {seconds:.1} s: {differences} differences, {repaired} repaired");
    }
    if interrupted {
        eprintln!("interrupted; --after {after} goes on");
        return Ok(ExitCode::from(INTERRUPTED));
    }
    Ok(if remaining > 0 { ExitCode::from(DIFFERENCES) } else { ExitCode::SUCCESS })
}

async fn dead_letters(command: DeadLettersCommand, of: OfDeadLetters) -> anyhow::Result<()> {
    let queue_url = of.queue_url.context("QUEUE_URL is not set: the SQS queue whose dead letters they are")?;
    let (read_model, currency) = (of.read_model.connect().await?, of.read_model.currency);
    let queue = consumer::client(&aws_settings().await?);
    let letters = DeadLetters::of(queue, queue_url, read_model, currency).await?;
    let print = |letter: &DeadLetter| match of.json {
        true => println!("{}", serde_json::to_string(letter).unwrap_or_default()),
        false => println!("{letter}"),
    };
    let (action, ids) = match command {
        DeadLettersCommand::List => {
            let mut count = 0;
            letters
                .list(|letter| {
                    count += 1;
                    print(letter);
                })
                .await?;
            eprintln!("{count} dead letters");
            return Ok(());
        }
        DeadLettersCommand::Show { id } => {
            let mut found = false;
            letters
                .list(|letter| {
                    if letter.id == id {
                        found = true;
                        print(letter);
                        if !of.json {
                            println!("{}", letter.body);
                        }
                    }
                })
                .await?;
            ensure!(found, "there is no dead letter {id}");
            return Ok(());
        }
        DeadLettersCommand::Redrive { ids } => (Action::Redrive, ids),
        DeadLettersCommand::Discard { ids } => (Action::Discard, ids),
    };
    let (mut done, mut kept) = (0, 0);
    let missing = letters
        .act(action, ids, |letter, is_done| {
            if is_done {
                done += 1;
                print(letter);
            } else {
                kept += 1;
            }
        })
        .await?;
    let (word, reason) = match action {
        Action::Redrive => ("redriven", "not events of this service"),
        Action::Discard => ("discarded", "needed by the read model"),
    };
    eprintln!("{done} {word}, {kept} kept because they are {reason}");
    ensure!(missing.is_empty(), "there are no dead letters {}", missing.join(", "));
    Ok(())
}

async fn consume(settings: Settings) -> anyhow::Result<()> {
    let queue_url = settings.queue_url.context("QUEUE_URL is not set: the SQS queue to consume")?;
    let read_model = Arc::new(settings.read_model.connect().await?);
    let queue = consumer::client(&aws_settings().await?);
    queues::check(&queue, &queue_url).await?;
    let currency = settings.read_model.currency;
    let sweep = match &settings.database_url {
        Some(url) => {
            let db = database::connect(url, SWEEP_CONNECTIONS, Some(SWEEP_TIMEOUT)).await?;
            let read_model = settings.read_model.connect().await?;
            let verifier = Verifier { db, read_model, currency, in_flight: settings.in_flight, repair: true };
            Some(Sweep::new(verifier, settings.sweep_interval))
        }
        None => None,
    };

    let consumer = Consumer::new(queue, queue_url, read_model, currency);
    let listener = TcpListener::bind(settings.listen_addr)
        .await
        .with_context(|| format!("cannot listen on {} (LISTEN_ADDR)", settings.listen_addr))?;
    let shutdown = process::shutdown_signal()?;
    info!(health = %listener.local_addr()?, pollers = settings.pollers, sweep = sweep.is_some(), "ready");
    let sweeping = shutdown.clone();
    let swept = async {
        let ended = match sweep {
            Some(sweep) => tokio::spawn(sweep.run(sweeping.clone())).await,
            None => Ok(()),
        };
        // That it ends with the shutdown, or never began, must not cut off the others.
        if ended.is_ok() {
            std::future::pending::<()>().await;
        }
        ended
    };
    tokio::select! {
        stopped = consumer.clone().run(settings.pollers.into(), shutdown.clone()) => stopped?,
        stopped = axum::serve(listener, health::router(consumer)).into_future() => bail!("health stopped: {stopped:?}"),
        ended = swept => bail!("the sweep stopped: {ended:?}"),
    }
    info!("stopped");
    Ok(())
}

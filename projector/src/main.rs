//! The `projector` process: configure, connect, project, drain. And the commands of whoever operates it.

use std::future::IntoFuture;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use chrono::{DateTime, Utc};
use clap::{Parser, Subcommand};
use iso_currency::Currency;
use process::logging::{self, LogSettings};
use process::{database, duration_from, one_line, queue::aws_settings};
use projector::consumer::{self, Consumer};
use projector::dead_letters::{Action, DeadLetter, DeadLetters};
use projector::health::Activity;
use projector::progress::Progress;
use projector::replay::Selection;
use projector::sweep::Sweep;
use projector::verify::{CONCURRENT, Finding, Repair, Verifier};
use projector::{health, queues, replay};
use read_model::Redis;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
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
    #[arg(long, env, default_value = "10s", value_parser = duration_from(Duration::from_millis(100)))]
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
        /// With --repair: also takes back what the database does not have, as after it was set back to an older copy
        #[arg(long, requires = "repair")]
        take_back: bool,
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
    /// Sends them to the queue again
    Redrive {
        #[command(flatten)]
        chosen: Chosen,
    },
    /// Deletes them
    Discard {
        #[command(flatten)]
        chosen: Chosen,
    },
}

#[derive(clap::Args)]
struct Chosen {
    /// The messages' ids, as `list` has them
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    ids: Vec<String>,
    /// All of them: but foreign ones are not redriven then, and needed ones not discarded
    #[arg(long)]
    all: bool,
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

/// How long a statement of the sweep may take.
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
        Some(Command::Verify { of, repair, take_back, after, in_flight }) => {
            let repair = match (repair, take_back) {
                (false, _) => Repair::Nothing,
                (true, false) => Repair::FromLog,
                (true, true) => Repair::AndTakeBack,
            };
            return verify(of, repair, after, in_flight).await;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn replay_log(of: OfStores, selection: Selection) -> anyhow::Result<ExitCode> {
    let db = database::connect(&of.database_url, 2, None).await?;
    let (read_model, currency) = (of.read_model.connect().await?, of.read_model.currency);
    let shutdown = process::shutdown_signal()?;
    let (mut progress, mut last) = (Progress::new("events", None), None);
    let replayed = replay::replay(&db, &read_model, currency, &selection, |events, id| {
        progress.set(events);
        last = Some(id);
        if shutdown.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
    .await;
    let events = match last {
        Some(last) => replayed.with_context(|| format!("--after {last} goes on"))?,
        None => replayed?,
    };
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

async fn verify(of: OfStores, repair: Repair, mut after: i64, in_flight: Duration) -> anyhow::Result<ExitCode> {
    let db = database::connect(&of.database_url, CONCURRENT as u32, None).await?;
    let (read_model, currency) = (of.read_model.connect().await?, of.read_model.currency);
    let verifier = Verifier { db, read_model, currency, in_flight, repair };
    verifier.check_database().await?;
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
    let goes_on = |after: i64| format!("--after {after} goes on");
    while !shutdown.is_cancelled()
        && let Some(page) = verifier.page(after).await.with_context(|| goes_on(after))?
    {
        (clients, after) = (clients + page.clients, page.last);
        progress.set(clients as u64);
        tell(&progress, page.compared.findings);
    }
    let mut cursor = 0;
    while !shutdown.is_cancelled() {
        let (next, findings) = verifier.strangers(cursor).await.with_context(|| goes_on(after))?;
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
        eprintln!("interrupted; {}", goes_on(after));
        return Ok(ExitCode::from(INTERRUPTED));
    }
    Ok(if remaining > 0 { ExitCode::from(DIFFERENCES) } else { ExitCode::SUCCESS })
}

async fn dead_letters(command: DeadLettersCommand, of: OfDeadLetters) -> anyhow::Result<()> {
    let queue_url = of.queue_url.context("QUEUE_URL is not set: the SQS queue whose dead letters they are")?;
    let (read_model, currency) = (of.read_model.connect().await?, of.read_model.currency);
    let queue = consumer::client(&aws_settings().await?);
    let mut letters = DeadLetters::of(queue, queue_url, read_model, currency).await?;
    let shutdown = process::shutdown_signal()?;
    let done = tokio::select! {
        done = use_dead_letters(&mut letters, command, of.json) => done,
        () = shutdown.cancelled() => Err(anyhow!("interrupted")),
    };
    // Also after a failure: or nobody could see them for some minutes.
    let hidden = letters.close().await;
    done?;
    if let Ok(hidden @ 1..) = hidden {
        eprintln!("{hidden} more are hidden for some minutes: somebody else looks at them");
    }
    Ok(())
}

async fn use_dead_letters(letters: &mut DeadLetters, command: DeadLettersCommand, json: bool) -> anyhow::Result<()> {
    let print = |letter: &DeadLetter| match json {
        true => println!("{}", serde_json::to_string(letter).unwrap_or_default()),
        false => println!("{letter}"),
    };
    let (action, Chosen { ids, .. }) = match command {
        DeadLettersCommand::List => {
            let mut count = 0;
            let count_and_print = |letter: &DeadLetter| {
                count += 1;
                print(letter);
            };
            letters.list(count_and_print).await?;
            eprintln!("{count} dead letters");
            return Ok(());
        }
        DeadLettersCommand::Show { id } => {
            let mut found = false;
            let show = |letter: &DeadLetter| {
                if letter.id == id {
                    found = true;
                    print(letter);
                    if !json {
                        println!("{}", letter.body);
                    }
                }
            };
            letters.list(show).await?;
            ensure!(found, "there is no dead letter {id}");
            return Ok(());
        }
        DeadLettersCommand::Redrive { chosen } => (Action::Redrive, chosen),
        DeadLettersCommand::Discard { chosen } => (Action::Discard, chosen),
    };
    let (mut done, mut kept) = (0, 0);
    let count_and_print = |letter: &DeadLetter, is_done: bool| {
        if is_done {
            done += 1;
            print(letter);
        } else {
            kept += 1;
        }
    };
    let missing = letters.act(action, ids, count_and_print).await?;
    let (word, reason) = match action {
        Action::Redrive => ("redriven", "not events of this service"),
        Action::Discard => ("discarded", "needed by the read model"),
    };
    eprintln!("{done} {word}");
    if kept > 0 {
        eprintln!("{kept} kept: they are {reason}");
    }
    ensure!(missing.is_empty(), "there are no dead letters {}", missing.join(", "));
    Ok(())
}

async fn consume(settings: Settings) -> anyhow::Result<()> {
    let queue_url = settings.queue_url.context("QUEUE_URL is not set: the SQS queue to consume")?;
    let read_model = Arc::new(settings.read_model.connect().await?);
    let queue = consumer::client(&aws_settings().await?);
    queues::check(&queue, &queue_url).await?;
    let currency = settings.read_model.currency;
    let consumer = Consumer::new(queue, queue_url, read_model, currency);
    let listener = TcpListener::bind(settings.listen_addr)
        .await
        .with_context(|| format!("cannot listen on {} (LISTEN_ADDR)", settings.listen_addr))?;
    let shutdown = process::shutdown_signal()?;
    info!(health = %listener.local_addr()?, pollers = settings.pollers, sweep = settings.database_url.is_some(), "ready");
    let activity = consumer.activity.clone();
    let swept = async {
        if let Some(url) = settings.database_url {
            let read_model = settings.read_model.connect().await?;
            let (in_flight, interval) = (settings.in_flight, settings.sweep_interval);
            let sweeping = sweep(url, read_model, currency, in_flight, interval, activity, shutdown.clone());
            tokio::spawn(sweeping).await??;
        }
        // That it ends with the shutdown, or never began, must not cut off the others.
        std::future::pending::<anyhow::Result<()>>().await
    };
    tokio::select! {
        stopped = consumer.clone().run(settings.pollers.into(), shutdown.clone()) => stopped?,
        stopped = axum::serve(listener, health::router(consumer)).into_future() => bail!("health stopped: {stopped:?}"),
        ended = swept => ended.context("the sweep failed")?,
    }
    info!("stopped");
    Ok(())
}

/// Sweeps as soon as the database can be reached: the projector does not need it for anything else.
async fn sweep(
    url: String,
    read_model: Redis,
    currency: Currency,
    in_flight: Duration,
    interval: Duration,
    activity: Arc<Activity>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let mut waiting = false;
    let db = loop {
        match database::connect(&url, CONCURRENT as u32, Some(SWEEP_TIMEOUT)).await {
            Ok(db) => break db,
            Err(error) if !std::mem::replace(&mut waiting, true) => warn!("no sweep for now: {error}"),
            Err(_) => {}
        }
        if timeout(interval, shutdown.cancelled()).await.is_ok() {
            return Ok(());
        }
    };
    let verifier = Verifier { db, read_model, currency, in_flight, repair: Repair::FromLog };
    while let Err(error) = verifier.check_database().await {
        warn!("no sweep for now: {}", one_line(error.as_ref()));
        if timeout(SWEEP_TIMEOUT, shutdown.cancelled()).await.is_ok() {
            return Ok(());
        }
    }
    Sweep::new(verifier, interval, activity).run(shutdown).await;
    Ok(())
}

//! What an operator asks for. Each command may run at any time, twice, and be interrupted.

mod progress;

use std::ops::ControlFlow;
use std::pin::pin;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use chrono::{DateTime, Utc};
use clap::Subcommand;
use futures::StreamExt;
use projector::queues::dead_letters::{Action, DeadLetter, DeadLetters};
use projector::rebuild::{self, Interrupted, Rebuild};
use projector::replay::Selection;
use projector::verify::sums::WrongSum;
use projector::verify::{CONCURRENT, Repair, Step, Verifier};
use projector::{queues, replay};
use read_model::Generations;
use read_model::generations::{GenerationState, TransitionError};
use runtime::database;
use runtime::queue::aws_settings;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::progress::Progress;

/// How long a statement may take: far longer than any does.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(120);

/// Exit status of a command that was interrupted, and of `verify` when it found differences.
const INTERRUPTED: u8 = 130;
const DIFFERENCES: u8 = 3;

#[derive(Subcommand)]
pub enum Command {
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
    /// Makes the read model anew beside the live one, and puts it in its place when nothing in it differs
    ///
    /// Queries go on meanwhile. What was live is kept for a while, and gone on with, to be put back if need be. One that was
    /// interrupted is gone on with by the next.
    Rebuild {
        #[command(flatten)]
        of: OfStores,
        #[command(flatten)]
        instead: Instead,
        /// How long what was live is kept
        #[arg(long, value_name = "TIME", default_value = "1h", value_parser = humantime::parse_duration)]
        keep: Duration,
        /// How long after its publication an event counts as on its way to the read model
        #[arg(long, env, default_value = "1m", value_parser = humantime::parse_duration)]
        in_flight: Duration,
    },
}

/// What to do instead of rebuilding.
#[derive(clap::Args)]
#[group(multiple = false)]
pub struct Instead {
    /// Tells which generations there are
    #[arg(long)]
    status: bool,
    /// Gives up the one that is being built
    #[arg(long)]
    abort: bool,
    /// Puts back what was live before, once nothing in it differs
    #[arg(long)]
    rollback: bool,
    /// Gives up what was live before
    #[arg(long)]
    discard: bool,
}

#[derive(clap::Args)]
pub struct OfStores {
    /// Command database
    #[arg(long, env, hide_env_values = true)]
    database_url: String,
    /// Prints JSON, a line for each result
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    read_model: read_model::RedisSettings,
}

impl OfStores {
    async fn verifier(&self, in_flight: Duration, repair: Repair) -> anyhow::Result<Verifier> {
        let db = database::connect(&self.database_url, CONCURRENT as u32, Some(STATEMENT_TIMEOUT)).await?;
        let (read_model, currency) = (self.read_model.connect().await?, self.read_model.currency);
        let verifier = Verifier { db, read_model, currency, in_flight, repair };
        verifier.check_database().await?;
        Ok(verifier)
    }
}

/// Goes on, unless it is to stop.
fn unless(stop: &CancellationToken) -> ControlFlow<()> {
    if stop.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

fn parse_time(text: &str) -> Result<DateTime<Utc>, String> {
    let time = DateTime::parse_from_rfc3339(text).map_err(|error| error.to_string())?;
    Ok(time.to_utc())
}

#[derive(clap::Args)]
pub struct OfDeadLetters {
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
pub enum DeadLettersCommand {
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
pub struct Chosen {
    /// The messages' ids, as `list` has them
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    ids: Vec<String>,
    /// All of them: but foreign ones are not redriven then, and needed ones not discarded
    #[arg(long)]
    all: bool,
}

#[derive(Subcommand)]
pub enum Queues {
    /// Creates the queue and its dead-letter queue where they do not exist, and prints their URLs
    Create {
        /// Name of the queue; the other is NAME-dead-letters
        #[arg(default_value = "orders")]
        name: String,
    },
}

impl Command {
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Command::Queues(Queues::Create { name }) => {
                for queue in queues::create(&queues::client(&aws_settings().await?), &name).await? {
                    println!(
                        "{:<8} {:<24} {}",
                        if queue.created { "created" } else { "exists" },
                        queue.name,
                        queue.url
                    );
                }
            }
            Command::DeadLetters { command, of } => dead_letters(command, of).await?,
            Command::Replay { of, client, since, after } => {
                return replay_log(of, Selection { client, since, after }).await;
            }
            Command::Verify { of, repair, take_back, after, in_flight } => {
                let repair = match (repair, take_back) {
                    (false, _) => Repair::Nothing,
                    (true, false) => Repair::FromLog,
                    (true, true) => Repair::AndTakeBack,
                };
                return verify(of, repair, after, in_flight).await;
            }
            Command::Rebuild { of, instead: Instead { status: true, .. }, .. } => {
                print_generations(&of.read_model.connect().await?.generations().await?, of.json);
            }
            Command::Rebuild { of, instead: Instead { abort: true, .. }, .. } => {
                give_up(of, Generations::abort).await?;
            }
            Command::Rebuild { of, instead: Instead { discard: true, .. }, .. } => {
                give_up(of, Generations::discard).await?;
            }
            Command::Rebuild { of, instead: Instead { rollback, .. }, keep, in_flight } => {
                return rebuild_read_model(of, rollback, keep, in_flight).await;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn replay_log(of: OfStores, selection: Selection) -> anyhow::Result<ExitCode> {
    let db = database::connect(&of.database_url, 2, Some(STATEMENT_TIMEOUT)).await?;
    let (read_model, currency) = (of.read_model.connect().await?, of.read_model.currency);
    let shutdown = runtime::shutdown_signal()?;
    let (mut progress, mut events, mut last) = (Progress::new("events", None), 0, None);
    let mut pages = pin!(replay::replay(&db, &read_model, currency, &selection));
    while let Some(replayed) = pages.next().await {
        let replayed = match last {
            Some(last) => replayed.with_context(|| format!("--after {last} goes on"))?,
            None => replayed?,
        };
        (events, last) = (replayed.events, Some(replayed.last));
        progress.set(events);
        if shutdown.is_cancelled() {
            break;
        }
    }
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

async fn verify(of: OfStores, repair: Repair, after: i64, in_flight: Duration) -> anyhow::Result<ExitCode> {
    let verifier = of.verifier(in_flight, repair).await?;
    let shutdown = runtime::shutdown_signal()?;
    let mut progress = Progress::new("clients", Some(verifier.clients_after(after).await?));
    let (mut clients, mut last, mut differences, mut remaining) = (0, after, 0, 0);
    let step = |step: Step| {
        (clients, last) = (step.clients, step.last);
        progress.set(clients);
        for finding in step.findings {
            differences += 1;
            remaining += usize::from(!finding.repaired);
            progress.print(&match of.json {
                true => serde_json::to_string(&finding).unwrap_or_default(),
                false => finding.to_string(),
            });
        }
        unless(&shutdown)
    };
    let arrived = Utc::now() - in_flight;
    let compared = verifier.all(after, step).await;
    compared.with_context(|| format!("--after {last} goes on"))?;
    let mut wrong_sums = 0;
    let has_sums = verifier.read_model.has_reports().await?;
    if has_sums && !shutdown.is_cancelled() {
        let sums = |wrong: Vec<WrongSum>| {
            wrong_sums += wrong.len();
            for wrong in wrong {
                progress.print(&match of.json {
                    true => serde_json::to_string(&wrong).unwrap_or_default(),
                    false => wrong.to_string(),
                });
            }
            unless(&shutdown)
        };
        verifier.sums(arrived, sums).await?;
    }
    let (seconds, interrupted) = (progress.finish().as_secs_f64(), shutdown.is_cancelled());
    let (unpublished, since) = verifier.unpublished().await?;
    let compared_sums = has_sums && !interrupted;
    if of.json {
        println!(
            "{}",
            json!({ "clients": clients, "differences": differences, "remaining": remaining, "wrongSums": compared_sums.then_some(wrong_sums), "seconds": seconds,
                    "unpublished": unpublished, "unpublishedSince": since, "last": last, "interrupted": interrupted })
        );
    } else {
        let repaired = differences - remaining;
        println!("{clients} clients compared in {seconds:.1} s: {differences} differences, {repaired} repaired");
        match wrong_sums {
            _ if !has_sums => {
                println!("what was sold is not there yet: an older release filled it; `projector rebuild` adds it")
            }
            0 if !compared_sums => {}
            0 => println!("what was sold each hour, day and month is right"),
            _ => println!("{wrong_sums} sums of what was sold are wrong: `projector rebuild` makes them anew"),
        }
        if let Some(since) = since {
            println!("{unpublished} events wait to be published, since {}", since.format("%F %T UTC"));
        }
    }
    if interrupted {
        eprintln!("interrupted; --after {last} goes on");
        return Ok(ExitCode::from(INTERRUPTED));
    }
    Ok(if remaining > 0 || wrong_sums > 0 { ExitCode::from(DIFFERENCES) } else { ExitCode::SUCCESS })
}

async fn rebuild_read_model(
    of: OfStores,
    rollback: bool,
    keep: Duration,
    in_flight: Duration,
) -> anyhow::Result<ExitCode> {
    let verifier = of.verifier(in_flight, Repair::AndTakeBack).await?;
    let all = verifier.clients_after(0).await?;
    let rebuild = Rebuild { verifier, keep };
    let shutdown = runtime::shutdown_signal()?;
    let began = Instant::now();
    let (mut replaying, mut comparing) = (None, None);
    let (mut events, mut clients) = (0, 0);
    let each = |progress| {
        match progress {
            rebuild::Progress::Replayed(count) => {
                events = count;
                replaying.get_or_insert_with(|| Progress::new("events", None)).set(count);
            }
            rebuild::Progress::Compared(count) => {
                clients = count;
                replaying = None;
                comparing.get_or_insert_with(|| Progress::new("clients", Some(all))).set(count);
            }
        }
        unless(&shutdown)
    };
    let done = if rollback { rebuild.roll_back(each).await } else { rebuild.run(each).await };
    drop((replaying, comparing));
    let interrupted = done.as_ref().is_err_and(|error| error.is::<Interrupted>());
    let seconds = began.elapsed().as_secs_f64();
    if of.json {
        let generation = done.as_ref().ok();
        println!(
            "{}",
            json!({ "generation": generation, "events": events, "clients": clients, "seconds": seconds,
                    "interrupted": interrupted })
        );
    }
    let goes_on = "the same again goes on, `projector rebuild --abort` gives up what was begun";
    if interrupted {
        eprintln!("interrupted; {goes_on}");
        return Ok(ExitCode::from(INTERRUPTED));
    }
    let generation = done.context(goes_on)?;
    if !of.json {
        let replayed = if rollback { String::new() } else { format!("{events} events replayed, ") };
        println!("generation {generation} is live: {replayed}{clients} clients compared in {seconds:.1} s");
        println!("`projector rebuild --rollback` puts the one before back, for {}", humantime::format_duration(keep));
    }
    Ok(ExitCode::SUCCESS)
}

/// Gives up a generation; projectors remove its keys.
async fn give_up(of: OfStores, which: fn(&mut Generations, i64) -> Result<u64, TransitionError>) -> anyhow::Result<()> {
    let read_model = of.read_model.connect().await?;
    read_model.change_generations(which).await??;
    print_generations(&read_model.generations().await?, of.json);
    Ok(())
}

fn print_generations(generations: &Generations, json: bool) {
    for (number, generation) in &generations.generations {
        if json {
            let mut line = json!(generation);
            line["generation"] = json!(number);
            println!("{line}");
            continue;
        }
        let time = |ms: i64| DateTime::from_timestamp_millis(ms).unwrap_or_default().format("%F %T UTC");
        let state = match generation.state {
            GenerationState::Live => "live".to_owned(),
            GenerationState::Building => "being built".to_owned(),
            GenerationState::Kept { until } => format!("kept until {}", time(until)),
            GenerationState::Removed { since } => format!("given up at {}", time(since)),
        };
        println!("generation {number:<4} format {:<4} {state}", generation.format);
    }
}

async fn dead_letters(command: DeadLettersCommand, of: OfDeadLetters) -> anyhow::Result<()> {
    let queue_url = of.queue_url.context("QUEUE_URL is not set: the SQS queue whose dead letters they are")?;
    let (read_model, currency) = (of.read_model.connect().await?, of.read_model.currency);
    let queue = queues::client(&aws_settings().await?);
    let mut letters = DeadLetters::of(queue, queue_url, read_model, currency).await?;
    let shutdown = runtime::shutdown_signal()?;
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

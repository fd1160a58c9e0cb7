use async_graphql::{ComplexObject, Context, Enum, ID, InputObject, Object, SimpleObject};
use entity::Subject;
use read_model::generations::{FORMAT, GenerationState};
use read_model::{ProjectorStatus, Status, SweepProgress};
use runtime::queue::dead_letters as letters;
use uuid::Uuid;

use super::history::EventType;
use crate::graphql::app;
use crate::graphql::arguments::size_within;
use crate::graphql::cost_directives::{cost, list_size, max_size, names};
use crate::graphql::error::Error;
use crate::graphql::scalars::{DateTime, int};
use crate::system;
use crate::system::dead_letters::{Command, Letter, MAX_LETTERS, MAX_TAKEN, Taken};
use crate::system::projection::time_of;

/// The default size of a page of dead letters.
const LETTERS: i32 = 10;
/// The longest text about a problem, in characters and bytes.
const MAX_TEXT: usize = 300;
const TEXT_BYTES: i32 = 4 * MAX_TEXT as i32 + 2;
/// The longest id of a message in bytes, without and with its quotation marks.
const MAX_ID: usize = 100;
const ID_BYTES: i32 = MAX_ID as i32 + 2;
/// The longest version of this service, such as 10.12.100-beta.1.
const VERSION_BYTES: i32 = 40;

pub struct System;

/// The state of the service, for operators. What is read is at most a second old. A part whose store cannot be reached is null, with an
/// error, and the others remain.
#[Object]
impl System {
    /// The version of the api that responds.
    #[graphql(directive = max_size::apply(Some(VERSION_BYTES), None))]
    async fn api_version(&self) -> &'static str {
        env!("CARGO_PKG_VERSION")
    }

    /// The stores, and whether the api reaches them.
    #[graphql(
        directive = cost::apply("5".into()),
        directive = list_size::apply(Some(3), None, None, Some(false))
    )]
    async fn stores(&self, ctx: &Context<'_>) -> Vec<Store> {
        let health = app(ctx).store_health().await;
        let store = |name, reachable, problems| Store { name, reachable, problems };
        let problems = health.read_model.problems().into_iter().take(MAX_PROBLEMS as usize).map(cut).collect();
        vec![
            store(StoreName::Database, health.database, Vec::new()),
            store(StoreName::Queue, health.queue, Vec::new()),
            store(StoreName::ReadModel, health.read_model.outage.is_none(), problems),
        ]
    }

    /// How far queries are behind changes.
    #[graphql(directive = cost::apply("20".into()))]
    async fn projection(&self, ctx: &Context<'_>) -> Option<Result<Projection, Error>> {
        let projection = app(ctx).system.projection().await.map_err(Error::from);
        Some(projection.map(|system::projection::Projection { newest, lag }| Projection {
            newest_event_at: newest.map(DateTime),
            lag_seconds: number(lag.as_secs()),
        }))
    }

    /// The events that wait to be sent. With the setting `RELAY=off` another program sends them, and none wait here.
    async fn outbox(&self, ctx: &Context<'_>) -> Option<Result<Outbox, Error>> {
        let backlog = app(ctx).system.backlog().map_err(Error::from);
        Some(backlog.map(|backlog| Outbox {
            pending: number(backlog.pending),
            refused: number(backlog.refused),
            oldest_age_seconds: number(backlog.oldest.unwrap_or_default().as_secs()),
        }))
    }

    /// The messages that wait to be applied to the read model. Null without an error if the api has no `QUEUE_URL`.
    #[graphql(directive = cost::apply("5".into()))]
    async fn queue(&self, ctx: &Context<'_>) -> Option<Result<Queue, Error>> {
        let system = &app(ctx).system;
        if !system.has_queue() {
            return None;
        }
        let depth = system.depth().await.map_err(Error::from);
        Some(depth.map(|depth| Queue { visible: number(depth.visible), in_flight: number(depth.in_flight) }))
    }

    /// Messages that were received five times and not applied, or that are no events of this service. Null without an error if the api has no
    /// `QUEUE_URL`.
    #[graphql(
        directive = cost::apply("20".into()),
        directive = list_size::apply(None, names(&["first"]), names(&["nodes"]), Some(false))
    )]
    async fn dead_letters(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The largest number of `nodes`, from 1 to 50.", default_with = "Some(LETTERS)")] first: Option<
            i32,
        >,
    ) -> Option<Result<DeadLetters, Error>> {
        if !app(ctx).system.has_queue() {
            return None;
        }
        Some(dead_letters(ctx, first).await)
    }

    /// The read model that queries read.
    #[graphql(directive = cost::apply("3".into()))]
    async fn read_model(&self, ctx: &Context<'_>) -> Option<Result<ReadModel, Error>> {
        Some(app(ctx).system.status().await.map(|status| ReadModel::of(&status)).map_err(Error::from))
    }

    /// The projectors that apply events to the read model and have reported in the last ten seconds, the oldest process first, at most 50.
    /// A Lambda function does not report.
    #[graphql(
        directive = cost::apply("3".into()),
        directive = list_size::apply(Some(MAX_PROJECTORS), None, None, Some(false))
    )]
    async fn projectors(&self, ctx: &Context<'_>) -> Option<Result<Vec<Projector>, Error>> {
        let status = app(ctx).system.status().await.map_err(Error::from);
        let first =
            |status: &Status| status.projectors.iter().take(MAX_PROJECTORS as usize).map(Projector::of).collect();
        Some(status.map(|status| first(&status)))
    }

    /// The sweep, which compares the read model with the database and repairs it. Null if there has been none: it needs a projector with
    /// a database, and a read model in Redis.
    #[graphql(directive = cost::apply("3".into()))]
    async fn sweep(&self, ctx: &Context<'_>) -> Option<Result<Sweep, Error>> {
        match app(ctx).system.status().await {
            Ok(status) => Some(Ok(Sweep::of(status.sweep.as_ref()?, status.wrong_sums))),
            Err(error) => Some(Err(error.into())),
        }
    }
}

async fn dead_letters(ctx: &Context<'_>, first: Option<i32>) -> Result<DeadLetters, Error> {
    let (system, first) = (&app(ctx).system, size_within(first, LETTERS, MAX_LETTERS)?);
    let unusable = |error: letters::Error| match system::Error::from(error) {
        system::Error::DeadLetters(letters::Error::Missing) => Ok(DeadLetterProblem::Missing),
        system::Error::DeadLetters(_) => Ok(DeadLetterProblem::NotAllowed),
        error => Err(Error::from(error)),
    };
    let mut result = DeadLetters { count: None, nodes: None, problem: None };
    match system.depth().await?.dead_letters {
        Ok(count) => result.count = Some(number(count)),
        Err(error) => result.problem = Some(unusable(error)?),
    }
    // Reading them takes several calls of the queue.
    if result.problem.is_none() && ctx.look_ahead().field("nodes").exists() {
        match system.dead_letters().await {
            Ok(letters) => {
                // The estimate may be too low.
                result.count = result.count.max(Some(number(letters.len() as u64)));
                result.nodes = Some(letters.iter().take(first).cloned().map(DeadLetter::of).collect());
            }
            Err(system::Error::DeadLetters(error)) => result.problem = Some(unusable(error)?),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(result)
}

/// A number as a GraphQL `Int`.
fn number(number: u64) -> i32 {
    int(i64::try_from(number).unwrap_or(i64::MAX))
}

fn cut(text: String) -> String {
    match text.char_indices().nth(MAX_TEXT - 1) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// The largest number of projectors in the list.
const MAX_PROJECTORS: i32 = 50;
/// The largest number of problems of a store.
const MAX_PROBLEMS: i32 = 5;

/// A store that the service needs.
#[derive(SimpleObject)]
pub struct Store {
    /// The store.
    name: StoreName,
    /// Whether the api reaches it.
    reachable: bool,
    /// Its problems, each with its remedy. Only of the read model.
    #[graphql(directive = max_size::apply(Some(TEXT_BYTES), Some(MAX_PROBLEMS)))]
    problems: Vec<String>,
}

/// The stores that the service needs.
#[derive(Clone, Copy, PartialEq, Eq, Enum)]
pub enum StoreName {
    /// PostgreSQL, or SQLite in standalone. Without it nothing can be changed.
    Database,
    /// The SQS queue or SNS topic to which events are sent. Without it changes are accepted, and queries do not see them yet.
    Queue,
    /// Redis, or the memory of standalone. Without it queries fail.
    ReadModel,
}

/// How far queries are behind changes.
#[derive(SimpleObject)]
pub struct Projection {
    /// When the newest change was made. Null if there is none.
    newest_event_at: Option<DateTime>,
    /// How old the oldest change is that queries do not see yet; 0 if they see the newest one. It is an estimate: the api looks up changes
    /// of growing ages. A single change that is missing among others is not found: it is among the dead letters.
    lag_seconds: i32,
}

/// The events that wait to be sent to the queue or topic.
#[derive(SimpleObject)]
pub struct Outbox {
    /// How many events wait; 10000 stands for all larger numbers.
    pending: i32,
    /// How many events were refused; 1000 stands for all larger numbers. They are sent again.
    refused: i32,
    /// How long the oldest event has waited; 0 below three seconds.
    oldest_age_seconds: i32,
}

/// The messages that wait to be applied to the read model, as SQS estimates.
#[derive(SimpleObject)]
pub struct Queue {
    /// Messages that wait.
    visible: i32,
    /// Messages that a projector has received and not deleted yet.
    in_flight: i32,
}

/// The dead-letter queue.
#[derive(SimpleObject)]
pub struct DeadLetters {
    /// How many there are, as SQS estimates. Null if `problem` is not null.
    count: Option<i32>,
    /// Some of them, oldest first. When some are redriven or discarded, others follow. Null if the api may not read them: then see
    /// `problem`.
    nodes: Option<Vec<DeadLetter>>,
    /// Why they cannot be counted or read. Null if they can.
    problem: Option<DeadLetterProblem>,
}

/// Why dead letters cannot be counted or read.
#[derive(Clone, Copy, PartialEq, Eq, Enum)]
pub enum DeadLetterProblem {
    /// The queue has no dead-letter queue.
    Missing,
    /// The api may not use the dead-letter queue. An operator can allow that, or use the command `projector dead-letters`.
    NotAllowed,
}

/// A message that was not applied. Its content is not shown.
#[derive(SimpleObject)]
pub struct DeadLetter {
    /// The id of the message.
    #[graphql(directive = max_size::apply(Some(ID_BYTES), None))]
    id: ID,
    /// When it was sent to the queue.
    sent_at: Option<DateTime>,
    /// How often it was received, including the times when it was shown here.
    receives: i32,
    /// What it is. Null while the read model is unavailable.
    verdict: Option<DeadLetterVerdict>,
    /// Why it was not applied, as far as that is known now.
    #[graphql(directive = max_size::apply(Some(TEXT_BYTES), None))]
    reason: String,
    /// The type of the event. Null if the message is not a valid event, as the fields below.
    r#type: Option<EventType>,
    /// The client that the event is about.
    client_id: Option<ID>,
    /// The product that the event is about.
    product_id: Option<ID>,
    /// The version of the client or product after the event.
    version: Option<i32>,
    /// The time of the event.
    time: Option<DateTime>,
}

impl DeadLetter {
    fn of(letter: Letter) -> DeadLetter {
        let (client_id, product_id) = match letter.subject {
            Some(Subject::Client(id)) => (Some(id.into()), None),
            Some(Subject::Product(id)) => (None, Some(id.into())),
            None => (None, None),
        };
        DeadLetter {
            id: letter.id.into(),
            sent_at: letter.sent_at.map(DateTime),
            receives: number(letter.receives.into()),
            verdict: letter.verdict.map(Into::into),
            reason: cut(letter.why),
            r#type: letter.r#type.as_deref().and_then(EventType::of),
            client_id,
            product_id,
            version: letter.version,
            time: letter.time.map(DateTime),
        }
    }
}

/// What a dead letter is.
#[derive(Clone, Copy, PartialEq, Eq, Enum)]
#[graphql(remote = "read_model::Verdict")]
pub enum DeadLetterVerdict {
    /// Not an event of this service, or not one that can be genuine: find its sender, then discard it.
    Foreign,
    /// Applied since: discard it.
    Superseded,
    /// Missing in the read model: correct the reason, then redrive it.
    Needed,
}

/// The read model that queries read.
#[derive(SimpleObject)]
pub struct ReadModel {
    /// The number of the generation that queries read: a rebuild makes a new one.
    generation: i32,
    /// The format of this generation.
    format: i32,
    /// The format that this release makes. If it is higher than `format`, the release notes say whether a rebuild is needed.
    latest_format: i32,
    /// The rebuild that has begun and is not finished. Null if there is none.
    rebuild: Option<Rebuild>,
    /// The generation before, while a rebuild can be rolled back. Null if there is none.
    previous: Option<PreviousGeneration>,
}

impl ReadModel {
    fn of(status: &Status) -> ReadModel {
        let generations = &status.generations;
        let (live, previous) = (generations.live(), generations.previous());
        let state = |generation| generations.generations.get(&generation);
        let until = |generation| match state(generation)?.state {
            GenerationState::Kept { until } => chrono::DateTime::from_timestamp_millis(until).map(DateTime),
            _ => None,
        };
        let format = state(live).map_or(FORMAT, |live| live.format);
        ReadModel {
            generation: number(live),
            format: int(format.into()),
            latest_format: int(FORMAT.into()),
            rebuild: generations.building().map(|generation| Rebuild {
                generation: number(generation),
                replayed_until: status.replayed.and_then(time_of).map(DateTime),
                replayed: status.replayed,
            }),
            previous: previous.and_then(|generation| {
                Some(PreviousGeneration { generation: number(generation), kept_until: until(generation)? })
            }),
        }
    }
}

/// A rebuild of the read model. One that was interrupted is here, too: `projector rebuild start` continues it, and `projector rebuild
/// abort` ends it.
#[derive(SimpleObject)]
#[graphql(complex)]
pub struct Rebuild {
    /// The number of the generation that it makes.
    generation: i32,
    /// All events up to this time are applied to the new generation. Null if none is.
    replayed_until: Option<DateTime>,
    #[graphql(skip)]
    replayed: Option<Uuid>,
}

#[ComplexObject]
impl Rebuild {
    /// How much of the log is replayed, in percent of its time. At 100 the new generation is compared with the database, and then queries
    /// read it.
    #[graphql(directive = cost::apply("10".into()))]
    async fn replayed_percent(&self, ctx: &Context<'_>) -> Option<Result<i32, Error>> {
        match self.replayed {
            Some(replayed) => {
                let percent = app(ctx).system.percent_until(replayed).await;
                percent.map(|percent| percent.map(i32::from)).map_err(Error::from).transpose()
            }
            None => Some(Ok(0)),
        }
    }
}

/// The generation that queries read before the last rebuild.
#[derive(SimpleObject)]
pub struct PreviousGeneration {
    /// Its number.
    generation: i32,
    /// Until then `projector rebuild rollback` can make it live again.
    kept_until: DateTime,
}

/// A process that applies events to the read model.
#[derive(SimpleObject)]
pub struct Projector {
    /// The version of its program.
    #[graphql(directive = max_size::apply(Some(VERSION_BYTES), None))]
    version: String,
    /// When the process started.
    started_at: DateTime,
    /// Its state.
    state: ProjectorState,
    /// How long the oldest message of its last batch waited until it was applied; 0 if the queue has been empty since.
    lag_seconds: i32,
}

/// The state of a projector.
#[derive(Clone, Copy, PartialEq, Eq, Enum)]
#[graphql(remote = "read_model::ProjectorState")]
pub enum ProjectorState {
    /// The queue is empty or nearly so.
    Current,
    /// There is a backlog.
    Lagging,
    /// A store is unavailable: messages are held.
    Waiting,
    /// Nothing is processed: restart the process.
    Frozen,
}

impl Projector {
    fn of(status: &ProjectorStatus) -> Projector {
        Projector {
            version: status.version.chars().filter(char::is_ascii_graphic).take(VERSION_BYTES as usize - 2).collect(),
            started_at: DateTime(status.started),
            state: status.state.into(),
            lag_seconds: number(status.lag_s),
        }
    }
}

/// The sweep. It compares recent changes all the time, and everything once in a round.
#[derive(SimpleObject)]
pub struct Sweep {
    /// When recent changes were last compared. Null if a projector of an older release sweeps.
    compared_at: Option<DateTime>,
    /// When the round began that compares all clients and products.
    round_began_at: DateTime,
    /// Whether this round is finished. The next one begins later.
    round_finished: bool,
    /// How many clients and products differed from the database in this round.
    differences: i32,
    /// How many of them were repaired.
    repaired: i32,
    /// When a difference was last found, in this round or an earlier one. Null if none was.
    last_difference_at: Option<DateTime>,
    /// How many sums differed from the database when they were last compared. `projector rebuild start` corrects them.
    wrong_sums: i32,
}

impl Sweep {
    fn of(progress: &SweepProgress, wrong_sums: u64) -> Sweep {
        Sweep {
            compared_at: progress.compared_at.map(DateTime),
            round_began_at: DateTime(progress.began),
            round_finished: progress.is_finished,
            differences: number(progress.differences),
            repaired: number(progress.repaired),
            last_difference_at: progress.last_difference.map(DateTime),
            wrong_sums: number(wrong_sums),
        }
    }
}

/// The dead letters to send back to the queue.
#[derive(InputObject)]
pub struct RedriveDeadLettersInput {
    /// Their ids, from 1 to 50. Null stands for all, except those whose verdict is FOREIGN.
    pub ids: Option<Vec<ID>>,
}

/// The dead letters to delete.
#[derive(InputObject)]
pub struct DiscardDeadLettersInput {
    /// Their ids, from 1 to 50.
    pub ids: Vec<ID>,
}

impl RedriveDeadLettersInput {
    /// # Errors
    /// If the ids are not valid.
    pub fn into_command(self) -> Result<Command, Error> {
        Ok(match self.ids {
            Some(ids) => Command::Redrive(parse_letter_ids(ids)?),
            None => Command::RedriveAll,
        })
    }
}

impl DiscardDeadLettersInput {
    /// # Errors
    /// If the ids are not valid.
    pub fn into_command(self) -> Result<Command, Error> {
        Ok(Command::Discard(parse_letter_ids(self.ids)?))
    }
}

/// # Errors
/// If there are none or too many, or one is longer than the id of a message.
fn parse_letter_ids(ids: Vec<ID>) -> Result<Vec<String>, Error> {
    let is_id = |id: &ID| (1..=MAX_ID).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic());
    if !(1..=MAX_LETTERS).contains(&ids.len()) || !ids.iter().all(is_id) {
        return Err(Error::BadUserInput(format!("`ids` must have from 1 to {MAX_LETTERS} ids of dead letters.")));
    }
    let mut ids: Vec<String> = ids.into_iter().map(|ID(id)| id).collect();
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

/// The result of a command on dead letters.
#[derive(SimpleObject)]
pub struct DeadLettersPayload {
    /// The ids of the dead letters that were redriven or discarded.
    #[graphql(directive = max_size::apply(Some(ID_BYTES), Some(MAX_TAKEN as i32)))]
    ids: Vec<ID>,
    /// How many were left because their verdict is FOREIGN.
    skipped: i32,
    /// The ids that were not found: somebody else has taken them, or reads them at the moment.
    #[graphql(directive = max_size::apply(Some(ID_BYTES), Some(MAX_LETTERS as i32)))]
    missing_ids: Vec<ID>,
    /// Whether there may be more: the command takes at most 100 and ends after some seconds. Then repeat it.
    has_more: bool,
}

impl DeadLettersPayload {
    pub fn of(taken: Taken) -> DeadLettersPayload {
        let ids = |ids: Vec<String>| ids.into_iter().map(ID::from).collect();
        DeadLettersPayload {
            ids: ids(taken.taken),
            skipped: int(taken.skipped as i64),
            missing_ids: ids(taken.missing),
            has_more: taken.has_more,
        }
    }
}

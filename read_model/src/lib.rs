//! The read model: what queries read, kept in Redis ([`Redis`]) or in this process ([`Memory`]).
//!
//! Two traits divide it: the projector applies events through [`Projection`], the api reads through [`Queries`].
//!
//! | module      | holds                                                                              |
//! |-------------|------------------------------------------------------------------------------------|
//! | `interface` | the two traits                                                                     |
//! | `types`     | clients, products, rankings, results and errors                                    |
//! | `dead_letters` | whether the read model still needs a dead letter                                 |
//! | `status`    | what operators see                                                                 |
//! | `health`    | the condition of the store, as health checks report it                             |
//! | [`rules`]   | the meaning of an event, as pure functions: the specification                      |
//! | [`reports`] | reads that combine several queries: sales over time, the latest orders, today      |
//! | `memory`    | the read model in this process: it runs the rules directly                         |
//! | `metrics`   | what operators can measure                                                         |
//! | [`redis`]   | the read model in Redis: keys, the scripts that apply events, reads, generations   |
//! | `settings`  | the settings that all processes share                                              |

mod dead_letters;
mod health;
mod interface;
mod memory;
mod metrics;
pub mod redis;
pub mod reports;
pub mod rules;
mod settings;
mod status;
mod types;

pub use dead_letters::{Judgement, Verdict, judge};
pub use health::Health;
pub use interface::{Projection, Queries, ReadModel};
pub use memory::Memory;
pub use redis::connection::{Cursor, RedisAddress};
pub use redis::generations::{self, Generations};
pub use redis::repair::{CatalogueCursor, RankedAndRecent};
pub use redis::{ConnectError, Redis};
pub use rules::client::ProjectedClient;
pub use rules::periods::Resolution;
pub use rules::recent_orders::OrderSummary;
pub use rules::sales::{Sales, Side, Sum};
pub use settings::RedisSettings;
pub use status::{AppliedVersions, ProjectorState, ProjectorStatus, Status, SweepProgress};
pub use types::{Applied, Client, Error, Product, RankPosition, Ranking};

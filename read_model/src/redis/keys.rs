//! The keys of the read model.
//!
//! | key                      | type   | holds                                                                        |
//! |--------------------------|--------|------------------------------------------------------------------------------|
//! | `orders:meta`            | hash   | `partitions` and `currency`: the settings that all processes share; `generations`: all generations, as JSON; `gG:replayed`: the position of a rebuild; `gG:swept`: the progress of the sweep; `gG:wrong_sums`: how many sums differed from the database when they were last compared |
//! | `orders:sweeper`         | string | the projector that sweeps; it expires                                        |
//! | `orders:projectors`      | hash   | what each projector has last reported about itself, as a time (ms since 1970) and JSON; it expires |
//! | `orders:{pN}:fencing_token` | string | the fencing token that a writer to this partition must present            |
//! | `orders:{pN}:generations` | string | a copy of `generations`, in case `orders:meta` alone is lost                |
//! | `orders:{pN}:gG:client:ID` | hash | a client; N = ID modulo partitions, G = generation                             |
//! | `…:recent:ID`            | sorted set | the client's newest orders, by version                                    |
//! | `…:rank:total`, `…:rank:last` | sorted set | the partition's clients by total minus cancellations and refunds, and by last purchase (ms) or 0 |
//! | `…:days:2026`, `…:half_hours:2026-11`, `…:moments:2026-11-24T13` | string | bucket pages: revenue and number of orders by day, half an hour and ten seconds, two 64-bit integers per bucket |
//! | `…:products:2026-11-24`, `…:products:2026-11` | hash | `ID:units` and `ID:revenue` of each product sold in that day or month |
//! | `…:days_cancelled:2026`, …, `…:products_cancelled:2026-11` | as above | the same for cancellations and refunds; such keys exist only for times with some |
//! | `…:quarantine`           | set    | the names of this generation's shared keys that events are no longer added to |
//! | `…:catalogue`            | hash   | version, price (minor units) and name of each product; then, if it is withdrawn or has a SKU, a tab, `+` or `-` (withdrawn), and the SKU; N = ID modulo partitions |
//!
//! Each change publishes the ids of the changed clients on the channel `orders:changed`, separated by spaces.
//!
//! The hash of a client has the fields `name`, `email`, `total` (minor units) and `orders` as placed, `last_purchase` (ms since
//! 1970), `version` (the watermark) and `newest` (the largest applied version). After a cancellation or a refund it also has
//! `refunded` (the sum of both, in minor units) and `cancelled` (the number of cancelled orders). While there is a gap it also has
//! an empty field `ahead:V` for each version V that is applied above the watermark. The braces make a Cluster store a partition in
//! one slot, so that one script can change all of its keys.
//!
//! **Fencing.** Readers look up the live generation once a second. A writer sends the fencing token of its generation list. After a
//! change each partition has a new token and rejects the old one, so no process writes with an outdated list.
//!
//! **Quarantine.** All clients of a partition share its rankings, bucket pages and product sums. If one of these keys is damaged
//! (it has another type, or a sum would overflow), `apply.lua` writes its name to the quarantine in the same atomic step and
//! applies the rest of the event. From then on no event is added to that key and reads of it fail as damaged: a sum that misses
//! events is never returned, even after retries or crashes. A rebuild fixes it, because a new generation has keys of its own.

use std::fmt::Display;

/// The rankings of a partition, in the order of [`Ranking`](crate::Ranking).
pub const RANKINGS: [&str; 2] = ["rank:total", "rank:last"];
/// The hash of a partition's products.
pub const CATALOGUE: &str = "catalogue";
/// The names of the damaged shared keys of a partition.
pub const QUARANTINE: &str = "quarantine";
pub const META: &str = "orders:meta";
/// The channel on which the ids of changed clients are published.
pub const CHANGED: &str = "orders:changed";

pub fn generation_key(partition: i64, generation: u64, name: impl Display) -> String {
    format!("orders:{{p{partition}}}:g{generation}:{name}")
}

pub fn fencing_token_key(partition: i64) -> String {
    format!("orders:{{p{partition}}}:fencing_token")
}

pub fn partition_generations_key(partition: i64) -> String {
    format!("orders:{{p{partition}}}:generations")
}

/// A key that is never written. Scripts declare it so that, while a Cluster migrates the slot, the node replies TRYAGAIN instead of
/// running the script on half-migrated keys.
pub fn missing_key(partition: i64) -> String {
    format!("orders:{{p{partition}}}:nothing")
}

/// The projector that sweeps.
pub const SWEEPER: &str = "orders:sweeper";

/// What the projectors report about themselves.
pub const PROJECTORS: &str = "orders:projectors";

/// The field of [`META`] that holds the progress of the sweep of a generation.
pub fn swept_field(generation: u64) -> String {
    format!("g{generation}:swept")
}

/// The field of [`META`] that holds the number of wrong sums of a generation.
pub fn wrong_sums_field(generation: u64) -> String {
    format!("g{generation}:wrong_sums")
}

/// The field of [`META`] that holds the position of the rebuild of a generation.
pub fn rebuild_position_field(generation: u64) -> String {
    format!("g{generation}:replayed")
}

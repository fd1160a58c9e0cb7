//! Sums that differ from the database.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use iso_currency::Currency;
use read_model::{Side, Sum};
use serde::{Serialize, Serializer};
use serde_json::json;

use super::Money;

/// A sum that differs. Only a rebuild of the read model repairs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrongSum {
    /// A month such as "2026-01", a day such as "2026-01-31", an hour such as "2026-01-31T23", or ten seconds such as
    /// "2026-01-31T23:59:50".
    pub period: String,
    pub side: Side,
    /// The product whose units are counted, or absent for all orders.
    pub product: Option<i64>,
    pub sum: Sum,
    /// The bounds of the right sum.
    pub least: Sum,
    pub most: Sum,
    pub currency: Currency,
    /// Why the sums of the period cannot be read.
    pub damaged: Option<String>,
}

impl fmt::Display for WrongSum {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let subject = match self.product {
            Some(product) => format!("{} product {product}", self.period),
            None => self.period.clone(),
        };
        let unit = match (self.side, self.product) {
            (Side::Gross, None) => "orders",
            (Side::Gross, Some(_)) => "units",
            (Side::Cancelled, None) => "cancelled orders",
            (Side::Cancelled, Some(_)) => "cancelled units",
        };
        if let Some(why) = &self.damaged {
            return write!(f, "{subject:<20} damaged: {why}");
        }
        let expected = if self.is_short() { self.least } else { self.most };
        let [(revenue, count), (expected_revenue, expected_count)] =
            [self.sum, expected].map(|sum| (self.revenue(sum), sum.count));
        write!(
            f,
            "{subject:<20} wrong sum: {revenue} for {count} {unit}, expected {expected_revenue} for {expected_count}"
        )
    }
}

impl Serialize for WrongSum {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let sum = |sum: Sum| json!({ "count": sum.count, "revenue": self.revenue(sum) });
        let mut fields = json!({
            "period": self.period, "sum": sum(self.sum), "least": sum(self.least), "most": sum(self.most)
        });
        if self.side == Side::Cancelled {
            fields["side"] = json!("cancelled");
        }
        if let Some(product) = self.product {
            fields["product"] = json!(product);
        }
        if let Some(damaged) = &self.damaged {
            fields["damaged"] = json!(damaged);
        }
        fields.serialize(serializer)
    }
}

impl WrongSum {
    fn revenue(&self, sum: Sum) -> Money {
        Money { minor_units: sum.revenue, currency: self.currency }
    }

    pub(super) fn is_short(&self) -> bool {
        !is_within(self.least, self.sum)
    }
}

pub(super) fn is_within(one: Sum, other: Sum) -> bool {
    one.count <= other.count && one.revenue <= other.revenue
}

/// The sums that are not between `least` and `most`. An absent sum is zero.
pub(super) fn wrong_sums<K: Ord + Clone>(
    [least, sums, most]: [&BTreeMap<(Side, K), Sum>; 3],
    currency: Currency,
    name: impl Fn(&K) -> (String, Option<i64>),
) -> Vec<WrongSum> {
    let keys: BTreeSet<&(Side, K)> = sums.keys().chain(most.keys()).collect();
    let of = |all: &BTreeMap<(Side, K), Sum>, key| all.get(key).copied().unwrap_or_default();
    let all = keys.into_iter().map(|key| {
        let (side, (period, product)) = (key.0, name(&key.1));
        let [sum, least, most] = [sums, least, most].map(|all| of(all, key));
        WrongSum { period, side, product, sum, least, most, currency, damaged: None }
    });
    all.filter(|one| one.is_short() || !is_within(one.sum, one.most)).collect()
}

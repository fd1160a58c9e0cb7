use async_graphql::SimpleObject;
use iso_currency::Currency;

use crate::graphql::scalars::{Decimal, decimal};

/// An amount of money.
#[derive(Clone, SimpleObject)]
pub struct Money {
    /// The amount, exact, in whole currency units: "3000.00" is three thousand dollars where the currency is USD.
    amount: Decimal,
    /// The currency, as ISO 4217 writes it, such as "USD". It is the same throughout this service.
    currency_code: &'static str,
}

impl Money {
    /// `minor` are the currency's smallest units, such as cents.
    pub fn new(minor: i64, currency: Currency) -> Money {
        Money { amount: Decimal(decimal(minor, currency.exponent().unwrap_or(0))), currency_code: currency.code() }
    }
}

use async_graphql::SimpleObject;
use iso_currency::Currency;

use crate::graphql::cost_directives::max_size;
use crate::graphql::scalars::Decimal;

/// An amount of money.
#[derive(Clone, SimpleObject)]
pub struct Money {
    /// The exact amount in units of the currency: "3000.00" is three thousand dollars if the currency is USD.
    amount: Decimal,
    /// The ISO 4217 code of the currency, for example "USD". All amounts of this service have the same currency.
    #[graphql(directive = max_size::apply(Some(5), None))]
    currency_code: &'static str,
}

impl Money {
    /// `minor` is in minor units of the currency, such as cents.
    pub fn new(minor: i64, currency: Currency) -> Money {
        Money { amount: Decimal::from_minor(minor, currency), currency_code: currency.code() }
    }
}

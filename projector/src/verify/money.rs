//! Amounts in findings.

use std::fmt;

use iso_currency::Currency;
use serde::{Serialize, Serializer};

/// An amount of money. Its text is such as "12.50 EUR", also in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Money {
    pub minor_units: i64,
    pub currency: Currency,
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let digits = usize::from(self.currency.exponent().unwrap_or(0));
        let sign = if self.minor_units < 0 { "-" } else { "" };
        let text = format!("{:0>width$}", self.minor_units.unsigned_abs(), width = digits + 1);
        let (whole, fraction) = text.split_at(text.len() - digits);
        let point = if fraction.is_empty() { "" } else { "." };
        write!(f, "{sign}{whole}{point}{fraction} {}", self.currency.code())
    }
}

impl Serialize for Money {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_has_the_digits_of_its_currency() {
        for (minor_units, currency, text) in [
            (1250, Currency::EUR, "12.50 EUR"),
            (5, Currency::USD, "0.05 USD"),
            (0, Currency::USD, "0.00 USD"),
            (-5, Currency::USD, "-0.05 USD"),
            (1500, Currency::JPY, "1500 JPY"),
            (1, Currency::KWD, "0.001 KWD"),
            (i64::MIN, Currency::USD, "-92233720368547758.08 USD"),
        ] {
            assert_eq!(Money { minor_units, currency }.to_string(), text);
        }
    }
}

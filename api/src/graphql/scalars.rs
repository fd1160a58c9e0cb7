//! The scalars of the schema.

use async_graphql::{InputValueError, InputValueResult, Pos, Scalar, ScalarType, Value};
use chrono::{NaiveDate, SecondsFormat, Utc};
use iso_currency::Currency;

#[derive(Clone)]
pub struct Decimal(String);

/// An exact decimal number as a string, for example "3000.00". Results have as many decimal places as the currency;
/// arguments may have fewer. A number without quotation marks is refused, because it may be inexact.
#[Scalar]
impl ScalarType for Decimal {
    fn parse(value: Value) -> InputValueResult<Self> {
        let is_decimal = |text: &str| {
            let digits = text.strip_prefix('-').unwrap_or(text);
            let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
            [whole, fraction]
                .iter()
                .all(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
        };
        match value {
            Value::String(text) if is_decimal(&text) => Ok(Decimal(text)),
            Value::Number(_) => Err(InputValueError::custom(
                "A decimal number is given as a string such as \"3000.00\", because a number may be inexact.",
            )),
            value => Err(InputValueError::custom(format!("{value} is not a decimal number such as \"3000.00\"."))),
        }
    }

    fn to_value(&self) -> Value {
        Value::String(self.0.clone())
    }
}

impl Decimal {
    /// `minor` is in minor units of the currency, such as cents.
    pub fn from_minor(minor: i64, currency: Currency) -> Decimal {
        Decimal(decimal(minor, currency.exponent().unwrap_or(0)))
    }

    pub fn into_text(self) -> String {
        self.0
    }

    /// In minor units of the currency. `None` if it has more decimal places than the currency, or does not fit.
    pub fn to_minor(&self, currency: Currency) -> Option<i64> {
        let (whole, fraction) = self.0.split_once('.').unwrap_or((&self.0, ""));
        let digits = usize::from(currency.exponent().unwrap_or(0));
        let fraction = fraction.trim_end_matches('0');
        if fraction.len() > digits {
            return None;
        }
        format!("{whole}{fraction:0<digits$}").parse().ok()
    }
}

fn decimal(minor: i64, digits: u16) -> String {
    let (sign, digits) = (if minor < 0 { "-" } else { "" }, usize::from(digits));
    let text = format!("{:0>width$}", minor.unsigned_abs(), width = digits + 1);
    match text.split_at(text.len() - digits) {
        (whole, "") => format!("{sign}{whole}"),
        (whole, fraction) => format!("{sign}{whole}.{fraction}"),
    }
}

#[derive(Clone)]
pub struct DateTime(pub chrono::DateTime<Utc>);

/// A time in UTC with milliseconds, in the format of RFC 3339, for example "2026-01-31T23:59:59.123Z".
#[Scalar(specified_by_url = "https://www.rfc-editor.org/rfc/rfc3339")]
impl ScalarType for DateTime {
    fn parse(value: Value) -> InputValueResult<Self> {
        Err(InputValueError::expected_type(value))
    }

    fn to_value(&self) -> Value {
        Value::String(self.0.to_rfc3339_opts(SecondsFormat::Millis, true))
    }
}

#[derive(Clone, Copy)]
pub struct Date(pub NaiveDate);

/// A day in UTC, in the format of RFC 3339, for example "2026-01-31".
#[Scalar(specified_by_url = "https://www.rfc-editor.org/rfc/rfc3339")]
impl ScalarType for Date {
    fn parse(value: Value) -> InputValueResult<Self> {
        let day = match &value {
            // The parser also accepts signs and spaces.
            Value::String(text) if text.len() == 10 => {
                text.parse().ok().filter(|day: &NaiveDate| day.to_string() == *text)
            }
            _ => None,
        };
        let invalid = || InputValueError::custom(format!("{value} is not a day such as \"2026-01-31\"."));
        day.map(Date).ok_or_else(invalid)
    }

    fn to_value(&self) -> Value {
        Value::String(self.0.to_string())
    }
}

/// Whether a value, if it is for a scalar of this module, is valid. The error says what is.
pub fn check_scalar(name: &str, value: &Value) -> Result<(), String> {
    let error = match name {
        "Decimal" => Decimal::parse(value.clone()).err().map(|error| error.into_server_error(Pos::default())),
        "Date" => Date::parse(value.clone()).err().map(|error| error.into_server_error(Pos::default())),
        _ => None,
    };
    error.map_or(Ok(()), |error| Err(error.message))
}

/// The number as a GraphQL `Int`, which has 32 bits. Larger numbers become 2147483647.
pub fn int(number: i64) -> i32 {
    i32::try_from(number).unwrap_or(if number < 0 { i32::MIN } else { i32::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_the_decimal_places_of_the_currency() {
        assert_eq!(decimal(300_000, 2), "3000.00");
        assert_eq!(decimal(0, 2), "0.00");
        assert_eq!(decimal(7, 2), "0.07");
        assert_eq!(decimal(-7, 2), "-0.07");
        assert_eq!(decimal(1_234, 0), "1234");
        assert_eq!(decimal(1_234, 3), "1.234");
        assert_eq!(decimal(i64::MAX, 2), "92233720368547758.07");
        assert_eq!(decimal(i64::MIN, 2), "-92233720368547758.08");
    }

    #[test]
    fn amounts_are_parsed_exactly() {
        let minor = |text: &str, currency| Decimal::parse(Value::from(text)).ok()?.to_minor(currency);
        for (text, cents) in [("3000.00", 300_000), ("3000", 300_000), ("0.1", 10), ("007.050", 705), ("0", 0)] {
            assert_eq!(minor(text, Currency::USD), Some(cents), "{text}");
        }
        assert_eq!(minor("92233720368547758.07", Currency::USD), Some(i64::MAX));
        assert_eq!(minor("-0.5", Currency::USD), Some(-50), "prices have their own limits");
        assert_eq!(minor("1234", Currency::JPY), Some(1_234));
        assert_eq!(minor("1234.0", Currency::JPY), Some(1_234));
        for text in ["", ".", "1.", ".5", "-", "--1", "+1", "1e3", "1,5", " 1", "1.005", "92233720368547758.08", "٣"] {
            assert_eq!(minor(text, Currency::USD), None, "{text:?}");
        }
        assert!(Decimal::parse(Value::from(5)).is_err(), "a JSON number may be inexact");
    }

    #[test]
    fn a_day_has_ten_characters() {
        let day = |text: &str| Date::parse(Value::from(text)).is_ok();
        assert!(day("2026-01-31") && day("0001-01-01") && day("9999-12-31"));
        for text in
            ["", "2026-1-31", "2026-02-30", "+202-01-01", "+2026-01-01", "10000-01-01", "-001-01-01", " 2026-01-1"]
        {
            assert!(!day(text), "{text:?}");
        }
    }

    #[test]
    fn times_are_in_utc_with_milliseconds() {
        let text = |ms| DateTime(chrono::DateTime::from_timestamp_millis(ms).unwrap()).to_value().to_string();
        assert_eq!(text(1_700_000_000_000), r#""2023-11-14T22:13:20.000Z""#);
        assert_eq!(text(1_700_000_000_120), r#""2023-11-14T22:13:20.120Z""#);
    }
}

//! Parsing and checking of arguments.

use async_graphql::ID;
use chrono::NaiveDate;
use chrono_tz::Tz;
use entity::event::MAX_NAME;
use uuid::Uuid;

use super::error::Error;
use super::scalars::Date;

/// The largest `first`, and the largest number of ids.
pub const MAX_PAGE: usize = 100;

/// An id is a decimal number from 1, without sign and leading zeros. `None` for any other text: nothing has such an id.
pub fn parse_id(id: &str) -> Option<i64> {
    id.parse().ok().filter(|number: &i64| *number > 0 && number.to_string() == id)
}

/// An order's id is a UUID in lower case with hyphens.
pub fn parse_order_id(id: &str) -> Option<Uuid> {
    id.parse().ok().filter(|uuid: &Uuid| uuid.to_string() == id)
}

/// # Errors
/// If there are too many ids.
pub fn parse_ids(ids: &[ID]) -> Result<Vec<Option<i64>>, Error> {
    match ids.len() {
        0..=MAX_PAGE => Ok(ids.iter().map(|id| parse_id(id)).collect()),
        count => Err(Error::BadUserInput(format!("`ids` has {count} ids: at most {MAX_PAGE} are allowed."))),
    }
}

/// The size of a page.
///
/// # Errors
/// If `first` is out of range.
pub fn page_size(first: Option<i32>, default: i32) -> Result<usize, Error> {
    size_within(first, default, MAX_PAGE)
}

/// The size of a page that has at most `max` elements.
///
/// # Errors
/// If `first` is out of range.
pub fn size_within(first: Option<i32>, default: i32, max: usize) -> Result<usize, Error> {
    let first = first.unwrap_or(default);
    let size = usize::try_from(first).ok().filter(|size| (1..=max).contains(size));
    size.ok_or_else(|| Error::BadUserInput(format!("`first` is {first}: it must be from 1 to {max}.")))
}

/// The first and the last day of a range.
///
/// # Errors
/// If the range is empty.
pub fn date_range(Date(from): Date, Date(to): Date) -> Result<(NaiveDate, NaiveDate), Error> {
    match from <= to {
        true => Ok((from, to)),
        false => Err(Error::BadUserInput(format!("`from` ({from}) is after `to` ({to})."))),
    }
}

/// # Errors
/// If there is no such time zone.
pub fn parse_time_zone(name: &str) -> Result<Tz, Error> {
    // The message does not repeat the name, which may be long.
    let unknown =
        |_| Error::BadUserInput("`timeZone` is not a known time zone. Use a name such as \"Europe/Berlin\".".into());
    match name.parse().map_err(unknown)? {
        // Other names of UTC.
        Tz::GMT | Tz::Etc__UTC | Tz::Etc__GMT | Tz::Zulu | Tz::Universal | Tz::UCT => Ok(Tz::UTC),
        zone => Ok(zone),
    }
}

/// The text of a search, without space around it.
///
/// # Errors
/// If it is empty, longer than a name, or has control characters, which no name has.
pub fn parse_search(text: &str) -> Result<&str, Error> {
    let text = text.trim();
    let is_valid = (1..=MAX_NAME).contains(&text.chars().count()) && !text.chars().any(char::is_control);
    is_valid.then_some(text).ok_or_else(|| {
        Error::BadUserInput(format!("`search` must have from 1 to {MAX_NAME} characters and no control characters."))
    })
}

/// A cursor of a list of orders: the id of an order.
///
/// # Errors
/// If the text is no such id.
pub fn parse_order_cursor(cursor: &str) -> Result<Uuid, Error> {
    parse_order_id(cursor).ok_or_else(invalid_cursor)
}

/// The error for an `after` that is not a cursor of the list.
pub fn invalid_cursor() -> Error {
    Error::BadUserInput("`after` is not a cursor of this list.".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_spelling() {
        assert_eq!(parse_id("1"), Some(1));
        assert_eq!(parse_id("9223372036854775807"), Some(i64::MAX));
        for id in ["", "0", "-1", "+1", "01", " 1", "1 ", "1.0", "1e3", "٣", "9223372036854775808", "x"] {
            assert_eq!(parse_id(id), None, "{id:?}");
        }
    }
}

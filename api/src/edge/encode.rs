//! Answers as JSON. Bytes in an [`async_graphql::Value`] are JSON already, and written as they are.

use std::io::{self, Write};

use serde::Serialize;
use serde::ser::Error;
use serde_json::Serializer;
use serde_json::ser::Formatter;

struct BytesAreJson;

impl Formatter for BytesAreJson {
    fn write_byte_array<W: Write + ?Sized>(&mut self, writer: &mut W, json: &[u8]) -> io::Result<()> {
        writer.write_all(json)
    }
}

pub fn to_vec(answer: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut json = Vec::with_capacity(512);
    answer.serialize(&mut Serializer::with_formatter(&mut json, BytesAreJson))?;
    Ok(json)
}

pub fn to_string(answer: &impl Serialize) -> serde_json::Result<String> {
    String::from_utf8(to_vec(answer)?).map_err(serde_json::Error::custom)
}

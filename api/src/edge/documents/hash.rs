//! The SHA-256 of a document's text: its cache key, and the id that clients send in
//! [automatic persisted queries](https://www.apollographql.com/docs/apollo-server/performance/apq).

use std::fmt;

use sha2::{Digest, Sha256};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct DocumentHash([u8; 32]);

impl DocumentHash {
    pub fn of(text: &str) -> DocumentHash {
        DocumentHash(Sha256::digest(text).into())
    }

    /// Accepts only the form that [`fmt::Display`] writes: 64 lower-case hexadecimal digits.
    pub fn parse(text: &str) -> Option<DocumentHash> {
        let mut hash = DocumentHash::default();
        for (byte, digits) in hash.0.iter_mut().zip(text.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?;
        }
        (hash.to_string() == text).then_some(hash)
    }
}

impl fmt::Display for DocumentHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

//! Lines and columns of a document, as errors report them.

use async_graphql::Pos;

pub struct Positions<'a> {
    text: &'a str,
    /// Byte offsets.
    line_starts: Vec<usize>,
}

impl<'a> Positions<'a> {
    pub fn new(text: &'a str) -> Positions<'a> {
        let bytes = text.as_bytes();
        let ends_line = |&at: &usize| match bytes[at] {
            b'\n' => true,
            b'\r' => bytes.get(at + 1) != Some(&b'\n'),
            _ => false,
        };
        let line_starts = (0..bytes.len()).filter(ends_line).map(|at| at + 1);
        Positions { text, line_starts: std::iter::once(0).chain(line_starts).collect() }
    }

    /// Line and column, from 1, of a byte offset. Columns count characters.
    pub fn at(&self, offset: usize) -> Pos {
        let line = self.line_starts.partition_point(|start| *start <= offset);
        let before = self.text.get(self.line_starts[line - 1]..offset).unwrap_or_default();
        Pos { line, column: before.chars().count() + 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_terminator_starts_a_line() {
        let text = "a\nb\rc\r\nd\n\ne\u{1F600}\u{2028}f";
        let positions = Positions::new(text);
        let at = |part: &str| {
            let Pos { line, column } = positions.at(text.find(part).unwrap());
            (line, column)
        };
        assert_eq!([at("a"), at("b"), at("c"), at("d")], [(1, 1), (2, 1), (3, 1), (4, 1)]);
        assert_eq!([at("e"), at("f")], [(6, 1), (6, 4)]);
        assert_eq!(positions.at(text.len()), Pos { line: 6, column: 5 });
    }
}

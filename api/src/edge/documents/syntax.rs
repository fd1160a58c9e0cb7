//! Removes valid syntax that apollo-parser rejects and that does not affect execution.

use apollo_parser::{Lexer, TokenKind};

/// Replaces each byte of commas, and of descriptions of operations, fragments and variables, by a space. All other tokens keep
/// their byte offset, but not their column: a character of several bytes becomes several spaces.
///
/// apollo-parser rejects such descriptions, and a comma before the colon of an alias or before the `on` of a fragment.
pub fn remove_unsupported(text: &str) -> String {
    let mut bytes = text.as_bytes().to_vec();
    let mut remove = |start: usize, length: usize| {
        let bytes = bytes[start..start + length].iter_mut();
        bytes.filter(|byte| !matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
    };
    let mut tokens = Vec::new();
    for token in Lexer::new(text).flatten() {
        match token.kind() {
            TokenKind::Whitespace | TokenKind::Comment => {}
            TokenKind::Comma => remove(token.index(), 1),
            _ => tokens.push(token),
        }
    }
    let mut nesting = 0usize;
    let mut previous = TokenKind::Eof;
    for (token, next) in tokens.iter().zip(tokens.iter().skip(1)) {
        match token.kind() {
            TokenKind::LCurly | TokenKind::LParen | TokenKind::LBracket => nesting += 1,
            TokenKind::RCurly | TokenKind::RParen | TokenKind::RBracket => nesting = nesting.saturating_sub(1),
            TokenKind::StringValue => {
                let is_value = matches!(previous, TokenKind::Colon | TokenKind::Eq);
                let is_description = match next.kind() {
                    // Outside of all brackets, before `query`, `mutation`, `subscription` or `fragment`.
                    TokenKind::Name => nesting == 0,
                    // In the brackets of an operation, before a variable. There, `= "…" $` is a default value.
                    TokenKind::Dollar => nesting == 1 && !is_value,
                    _ => false,
                };
                if is_description {
                    remove(token.index(), token.data().len());
                }
            }
            _ => {}
        }
        previous = token.kind();
    }
    String::from_utf8(bytes).expect("still UTF-8, because only whole tokens are replaced")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_commas_and_descriptions_are_removed() {
        for (text, expected) in [
            ("{ a,:b(c: \",\", d: [1,2]) #,\n}", "{ a :b(c: \",\"  d: [1 2]) #,\n}"),
            ("\"\"\"a\nb\"\"\" query Q { a }", "    \n     query Q { a }"),
            ("{ a } \"é\" fragment f on T { a }", "{ a }      fragment f on T { a }"),
            ("query (\"d\" $a: A = \"v\", \"d\" $b: B) { a }", "query (    $a: A = \"v\"      $b: B) { a }"),
        ] {
            assert_eq!(remove_unsupported(text), expected);
        }
        for text in [
            "query ($a: A = \"v\" $b: [B] = [\"v\" $c]) { a(b: \"v\" c: $d) }",
            "query @a(b: \"v\" $c) { a }",
            "\"d\" { a }",
            "\"d\" \"d\"",
            "{ \"",
        ] {
            assert_eq!(remove_unsupported(text), text);
        }
    }
}

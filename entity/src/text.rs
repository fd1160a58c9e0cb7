//! Which characters a name may have.

/// Whether a text has neither control characters, which PostgreSQL cannot all store, nor invisible ones: two names that look the
/// same, or a text whose direction is reversed, mislead people.
pub fn is_printable(text: &str) -> bool {
    !text.chars().any(|character| character.is_control() || is_invisible(character))
}

/// Whether a code point never stands for a character, <https://www.unicode.org/faq/private_use.html#noncharacters>. Searches use the last
/// one as the end of a range.
pub fn is_noncharacter(character: char) -> bool {
    matches!(character, '\u{fdd0}'..='\u{fdef}') || u32::from(character) & 0xfffe == 0xfffe
}

/// Whether a text has more than variation selectors, which only choose the form of the character before them, as in many emoji.
pub fn has_visible(text: &str) -> bool {
    text.chars().any(|character| !matches!(character, '\u{fe00}'..='\u{fe0f}'))
}

/// Characters that show nothing: `Default_Ignorable_Code_Point` of Unicode without variation selectors, line separators,
/// annotations and the blank of Braille. Space is visible between others.
/// <https://www.unicode.org/Public/UCD/latest/ucd/DerivedCoreProperties.txt>
fn is_invisible(character: char) -> bool {
    matches!(
        character,
        '\u{ad}'
            | '\u{34f}'
            | '\u{600}'..='\u{605}'
            | '\u{61c}'
            | '\u{6dd}'
            | '\u{70f}'
            | '\u{115f}'..='\u{1160}'
            | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{2800}'
            | '\u{3164}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}'
            | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_and_invisible_characters_are_not_printable() {
        for text in ["Zoë", "Zoe\u{308}", "木村 花子", "Gift ❤\u{fe0f}", "O'Neil-Smith & Co. (№ 7)", "محمد", "★"]
        {
            assert!(is_printable(text) && has_visible(text), "{text:?}");
        }
        let invisible = "\u{ad}\u{34f}\u{61c}\u{115f}\u{180e}\u{200b}\u{200c}\u{200d}\u{200e}\u{200f}\u{2028}\u{202a}\u{202e}\u{2060}\u{2066}\u{2069}\u{206f}\u{2800}\u{3164}\u{feff}\u{ffa0}\u{fffb}\u{1d173}\u{e0001}\u{e0041}\u{85}\u{7f}\n\0";
        for character in invisible.chars() {
            assert!(!is_printable(&format!("B{character}ob")), "{character:?}");
        }
        assert!(!has_visible("\u{fe0f}\u{fe0e}") && !has_visible(""));
    }
}

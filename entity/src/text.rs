//! Which characters a name may have.

use icu_properties::props::{CanonicalCombiningClass, ExtendedPictographic, JoiningType, Script};
use icu_properties::{CodePointMapData, CodePointSetData};

/// Lets the letters around it join, or emoji form one picture.
const JOINER: char = '\u{200d}';
/// Keeps the letters around it from joining.
const NON_JOINER: char = '\u{200c}';
/// The living scripts whose letters join.
const CURSIVE: [Script; 5] = [Script::Adlam, Script::Arabic, Script::Mongolian, Script::Nko, Script::Syriac];

/// Whether a text has neither control characters, which PostgreSQL cannot all store, nor invisible ones: two names that look the
/// same, or a text whose direction is reversed, mislead people. Joiners are visible where they change the characters around them.
pub fn is_printable(text: &str) -> bool {
    text.char_indices().all(|(at, character)| match character {
        JOINER | NON_JOINER => is_visible_between(&text[..at], character, &text[at + character.len_utf8()..]),
        _ => !character.is_control() && !is_invisible(character),
    })
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

/// Whether a joiner may change how the characters around it look, as in the correct spelling of some names. These are about the rules of
/// Unicode for identifiers, <https://www.unicode.org/reports/tr31/#Layout_and_Format_Control_Characters>, and for emoji,
/// <https://www.unicode.org/reports/tr29/#GB11>. Persian also has the non-joiner after letters that never join the next one.
fn is_visible_between(before: &str, joiner: char, after: &str) -> bool {
    let (Some(previous), Some(next)) = (before.chars().next_back(), after.chars().next()) else { return false };
    let is_letter_beside_virama =
        |letter: char, virama| letter.is_alphabetic() && is_virama(virama) && script_of(letter) == script_of(virama);
    if is_letter_beside_virama(next, previous) {
        return true;
    }
    match joiner {
        // Bengali has it before the virama, too.
        JOINER => is_letter_beside_virama(previous, next) || are_emoji(before, next),
        _ => is_cursive(before.chars().rev()) && is_cursive(after.chars()),
    }
}

fn script_of(character: char) -> Script {
    CodePointMapData::<Script>::new().get(character)
}

/// Whether a character removes the vowel of the consonant before it, as in the scripts of India.
fn is_virama(character: char) -> bool {
    CodePointMapData::<CanonicalCombiningClass>::new().get(character) == CanonicalCombiningClass::Virama
}

/// Whether the first of these characters that is not a mark is a letter of a script whose letters join.
fn is_cursive(mut characters: impl Iterator<Item = char>) -> bool {
    let is_mark = |character| CodePointMapData::<JoiningType>::new().get(character) == JoiningType::Transparent;
    let is_letter = |letter: char| letter.is_alphabetic() && CURSIVE.contains(&script_of(letter));
    characters.find(|character| !is_mark(*character)).is_some_and(is_letter)
}

/// Whether both are emoji. Selectors of variations and colours of skin belong to the one before.
fn are_emoji(before: &str, next: char) -> bool {
    let is_modifier = |character| matches!(character, '\u{fe0f}' | '\u{1f3fb}'..='\u{1f3ff}');
    let previous = before.trim_end_matches(is_modifier).chars().next_back();
    let emoji = CodePointSetData::new::<ExtendedPictographic>();
    previous.is_some_and(|previous| emoji.contains(previous)) && emoji.contains(next)
}

/// Characters that show nothing: `Default_Ignorable_Code_Point` of Unicode without joiners and variation selectors, line separators,
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
            | '\u{200b}'
            | '\u{200e}'..='\u{200f}'
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

    #[test]
    fn joiners_are_printable_where_they_change_the_characters_around_them() {
        let sinhala = "ශ\u{dca}\u{200d}රී";
        let bengali = "র\u{200d}\u{9cd}যাচেল";
        let nepali = "गर\u{94d}\u{200d}यो";
        let hindi = "रक\u{94d}\u{200c}षा";
        let persian = "می\u{200c}خواهم";
        let (after_mark, after_letter_that_never_joins) = ("کتابِ\u{200c}من", "محمد\u{200c}رضا");
        let (family, astronaut, couple) =
            ("👩\u{200d}👩\u{200d}👧\u{200d}👦", "👩🏽\u{200d}🚀", "👩\u{200d}❤\u{fe0f}\u{200d}👨");
        let names = [sinhala, bengali, nepali, hindi, persian, after_mark, after_letter_that_never_joins];
        for text in names.into_iter().chain([family, astronaut, couple]) {
            assert!(is_printable(text) && has_visible(text), "{text:?}");
            assert!(is_printable(&format!("B {text} b")), "{text:?}");
        }
    }

    #[test]
    fn joiners_are_not_printable_where_they_change_nothing() {
        for joiner in ['\u{200d}', '\u{200c}'] {
            // Latin, Greek, Cyrillic, Hebrew, Chinese, digits, symbols.
            for text in ["Bob", "Zoë", "Ζωή", "Зоя", "שרה", "花子", "42", "№7", "a.b", "A\u{308}b"] {
                for (at, _) in text.char_indices().chain([(text.len(), ' ')]) {
                    let (before, after) = text.split_at(at);
                    let hidden = format!("{before}{joiner}{after}");
                    assert!(!is_printable(&hidden), "{hidden:?}");
                }
            }
            let beside = |text: &str| text.replace('_', &joiner.to_string());
            for text in [
                "_",
                "__",
                "x _",
                "_ x",
                "x_ y",
                "ශ\u{dca}_",
                "_රී",
                "ශ\u{dca}_ රී",
                "ශ\u{dca}__රී",
                "ශ_ර",
                "می__خ",
                "a\u{94d}_b",
                "क\u{94d}_b",
                "می_ خ",
                "می_",
            ] {
                assert!(!is_printable(&beside(text)), "{:?}", beside(text));
            }
            for text in ["👩_", "_👩", "👩_a", "a_👩", "👩_ 👩", "👩__👩", "1_2", "\u{fe0f}_👩"] {
                assert!(!is_printable(&beside(text)), "{:?}", beside(text));
            }
        }
        // Only the other joiner has an effect there.
        for text in ["محم\u{200d}د", "می\u{200d}خواهم", "👩\u{200c}👩"] {
            assert!(!is_printable(text), "{text:?}");
        }
    }
}

//! The catalogue in the memory of the api. 100,000 products take about 30 MB, and a search among them less than a millisecond.

use std::collections::BTreeSet;

use read_model::Product;

use super::ProductPage;

/// Separates the name of a product from its SKU. No search has it.
const SEPARATOR: char = '\0';

#[derive(Debug)]
pub struct Index {
    /// In ascending order of ids.
    products: Vec<Product>,
    /// The name and the SKU of each product, in lower case.
    texts: Vec<String>,
    /// The beginnings of all words of the names, and of the SKUs: an index of `texts`, and a position in that text. They are sorted by
    /// the rest of the text from there, so that those with the same beginning are neighbours.
    words: Vec<(u32, u32)>,
}

impl Index {
    /// `products` are in ascending order of ids.
    pub fn new(products: Vec<Product>) -> Index {
        let text = |product: &Product| {
            let mut text = lower(&product.name);
            text.push(SEPARATOR);
            text.extend(product.sku.as_deref().map(lower));
            text
        };
        let texts: Vec<String> = products.iter().map(text).collect();
        let mut words: Vec<(u32, u32)> = Vec::new();
        for (product, text) in (0..).zip(&texts) {
            words.extend(beginnings(text).map(|position| (product, position as u32)));
        }
        words.sort_unstable_by(|one, other| rest(&texts, *one).cmp(rest(&texts, *other)));
        Index { products, texts, words }
    }

    pub fn page(&self, search: Option<&str>, available: Option<bool>, after: Option<i64>, first: usize) -> ProductPage {
        let begin = self.products.partition_point(|product| after.is_some_and(|after| product.id <= after));
        let is_listed = |index: usize| available.is_none_or(|available| self.products[index].available == available);
        // One more product shows whether there is a next page.
        let (has_previous_page, indices): (bool, Vec<usize>) = match search {
            None => {
                let page = (begin..self.products.len()).filter(|index| is_listed(*index)).take(first + 1);
                ((0..begin).any(is_listed), page.collect())
            }
            Some(search) => {
                let mut found = self.words_with(&lower(search)).iter().map(|(product, _)| *product as usize);
                let page = smallest(found.clone().filter(|index| *index >= begin), first + 1, is_listed);
                (begin > 0 && found.any(|index| index < begin && is_listed(index)), page)
            }
        };
        let products = indices.iter().take(first).map(|index| self.products[*index].clone()).collect();
        ProductPage { products, has_previous_page, has_next_page: indices.len() > first }
    }

    /// The words that begin with a text.
    fn words_with(&self, text: &str) -> &[(u32, u32)] {
        let begin = self.words.partition_point(|word| rest(&self.texts, *word) < text);
        let words = &self.words[begin..];
        &words[..words.partition_point(|word| rest(&self.texts, *word).starts_with(text))]
    }
}

fn rest(texts: &[String], (product, position): (u32, u32)) -> &str {
    &texts[product as usize][position as usize..]
}

/// Character by character, so that the beginning of a text has the same form as the text.
fn lower(text: &str) -> String {
    text.chars().flat_map(char::to_lowercase).collect()
}

/// Where the words of a name begin, and its SKU. The name itself is found, too, if it begins with another character.
fn beginnings(text: &str) -> impl Iterator<Item = usize> {
    let name = text.find(SEPARATOR).unwrap_or(text.len());
    let mut is_inside = false;
    let words = text[..name].char_indices().filter_map(move |(position, character)| {
        let is_beginning = position == 0 || character.is_alphanumeric() && !is_inside;
        is_inside = character.is_alphanumeric();
        is_beginning.then_some(position)
    });
    let sku = name + SEPARATOR.len_utf8();
    words.chain((sku < text.len()).then_some(sku))
}

/// The smallest numbers that are wanted, in ascending order, each once.
fn smallest(numbers: impl Iterator<Item = usize>, count: usize, is_wanted: impl Fn(usize) -> bool) -> Vec<usize> {
    let (mut found, mut end) = (BTreeSet::new(), usize::MAX);
    for number in numbers {
        if number < end && is_wanted(number) && found.insert(number) && found.len() > count {
            end = found.pop_last().unwrap_or(end);
        }
    }
    found.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn product(id: i64, name: &str, sku: Option<&str>, available: bool) -> Product {
        Product { id, name: name.into(), price: 100, available, sku: sku.map(Into::into), version: 1 }
    }

    fn ids(page: &ProductPage) -> Vec<i64> {
        page.products.iter().map(|product| product.id).collect()
    }

    /// The ids of all pages.
    fn all(index: &Index, search: Option<&str>, available: Option<bool>, first: usize) -> Vec<i64> {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = index.page(search, available, after, first);
            assert!(page.products.len() == first || !page.has_next_page);
            assert_eq!(page.has_previous_page, !found.is_empty());
            found.extend(ids(&page));
            after = found.last().copied();
            if !page.has_next_page {
                return found;
            }
        }
    }

    #[test]
    fn a_search_finds_the_beginnings_of_words_and_skus_in_any_case() {
        let index = Index::new(vec![
            product(1, "Big Red Lamp", Some("LAMP-1"), true),
            product(2, "Lampshade (red)", None, false),
            product(3, "Übergröße 100% Öl", Some("red_2"), true),
            product(4, "木村 lamp lamp", None, true),
            product(5, "☃ snowman", Some("%x"), true),
            product(6, "ΟΔΟΣ ΣΑΣ", None, true),
        ]);
        for (search, found) in [
            ("lamp", &[1, 2, 4][..]),
            ("LAMP", &[1, 2, 4]),
            ("l", &[1, 2, 4]),
            ("amp", &[]),
            ("red", &[1, 2, 3]),
            ("red la", &[1]),
            ("red lamp x", &[]),
            ("lamp-1", &[1]),
            ("(red", &[]),
            ("über", &[3]),
            ("ÖL", &[3]),
            ("größe", &[]),
            ("%", &[5]),
            ("_", &[]),
            ("100%", &[3]),
            ("木", &[4]),
            ("☃", &[5]),
            ("οδος", &[]),
            ("οδοσ", &[6]),
            ("ΟΔΟΣ Σ", &[6]),
        ] {
            for first in [1, 2, 10] {
                assert_eq!(all(&index, Some(search), None, first), found, "{search}");
            }
        }
        assert_eq!(all(&index, Some("lamp"), Some(true), 1), [1, 4]);
        assert_eq!(all(&index, Some("lamp"), Some(false), 1), [2]);
        assert_eq!(all(&index, None, Some(true), 2), [1, 3, 4, 5, 6]);
        assert_eq!(all(&index, None, None, 4), [1, 2, 3, 4, 5, 6]);
        assert_eq!(all(&Index::new(Vec::new()), Some("lamp"), None, 4), [0; 0]);
    }

    #[test]
    fn a_page_has_a_previous_one_if_products_before_it_are_listed() {
        let index = Index::new(vec![
            product(1, "Lamp", None, false),
            product(2, "Chair", None, true),
            product(3, "Red lamp", None, true),
        ]);
        for (search, available, expected) in [
            (None, None, [false, true, true, true]),
            (None, Some(true), [false, false, true, true]),
            (Some("lamp"), None, [false, true, true, true]),
            (Some("lamp"), Some(true), [false, false, false, true]),
            (Some("desk"), None, [false; 4]),
        ] {
            let after = [None, Some(1), Some(2), Some(9)];
            let pages = after.map(|after| index.page(search, available, after, 1).has_previous_page);
            assert_eq!(pages, expected, "{search:?} {available:?}");
        }
    }

    #[test]
    fn a_page_among_a_hundred_thousand_products_takes_little_time() {
        let name = |id: i64| format!("Product {} of series {}", id, id % 1_000);
        let products = (1..=100_000).map(|id| product(id, &name(id), Some(&format!("P-{id}")), id % 2 == 0));
        let index = Index::new(products.collect());
        let begin = Instant::now();
        for (search, available, after, found) in [
            (None, Some(true), None, [2, 4]),
            (None, Some(false), Some(99_000), [99_001, 99_003]),
            (Some("p"), None, None, [1, 2]),
            (Some("p"), Some(true), Some(50_001), [50_002, 50_004]),
            (Some("product 77"), None, Some(77_000), [77_001, 77_002]),
            (Some("series 7"), None, Some(99_000), [99_007, 99_070]),
            (Some("p-9999"), None, Some(9_999), [99_990, 99_991]),
        ] {
            assert_eq!(ids(&index.page(search, available, after, 2)), found, "{search:?}");
        }
        // Also in a build without optimisation.
        assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
        assert_eq!(all(&index, Some("p-1234"), None, 3).len(), 11);
    }
}

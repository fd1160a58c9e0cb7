use async_graphql::SimpleObject;

use entity::event::MAX_NAME;

use crate::graphql::cost_directives::max_size;

/// The longest cursor of most lists, with its quotation marks: a letter, two numbers of 64 bits, and a colon.
pub const CURSOR_BYTES: i32 = 45;
/// The longest cursor of a search: a name instead of a number. A character has at most four bytes.
pub const SEARCH_CURSOR_BYTES: i32 = CURSOR_BYTES + 4 * MAX_NAME as i32;

/// The position of a page in its list.
#[derive(SimpleObject)]
pub struct PageInfo {
    /// Whether there are items before this page.
    pub has_previous_page: bool,
    /// Whether there are items after this page.
    pub has_next_page: bool,
    /// The cursor of the first item. Null if the page is empty.
    #[graphql(directive = max_size::apply(Some(SEARCH_CURSOR_BYTES), None))]
    pub start_cursor: Option<String>,
    /// The cursor of the end of the page, for `after` of the next one. Null if there is neither an item nor a next page.
    #[graphql(directive = max_size::apply(Some(SEARCH_CURSOR_BYTES), None))]
    pub end_cursor: Option<String>,
}

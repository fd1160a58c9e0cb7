use async_graphql::SimpleObject;

use crate::graphql::cost_directives::max_size;

/// The longest cursor, with its quotation marks: a letter, two numbers of 64 bits, and a colon.
pub const CURSOR_BYTES: i32 = 45;

/// The position of a page in its list.
#[derive(SimpleObject)]
pub struct PageInfo {
    /// Whether there are items before this page.
    pub has_previous_page: bool,
    /// Whether there are items after this page.
    pub has_next_page: bool,
    /// The cursor of the first item. Null if the page is empty.
    #[graphql(directive = max_size::apply(Some(CURSOR_BYTES), None))]
    pub start_cursor: Option<String>,
    /// The cursor of the last item. Null if the page is empty.
    #[graphql(directive = max_size::apply(Some(CURSOR_BYTES), None))]
    pub end_cursor: Option<String>,
}

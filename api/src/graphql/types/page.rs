use async_graphql::SimpleObject;

/// The position of a page in its list.
#[derive(SimpleObject)]
pub struct PageInfo {
    /// Whether there are items before this page.
    pub has_previous_page: bool,
    /// Whether there are items after this page.
    pub has_next_page: bool,
    /// The cursor of the first item. Null if the page is empty.
    pub start_cursor: Option<String>,
    /// The cursor of the last item. Null if the page is empty.
    pub end_cursor: Option<String>,
}

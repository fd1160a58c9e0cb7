use async_graphql::connection::PageInfo;

/// Of a page that has these cursors.
pub fn page_info<'a>(
    mut cursors: impl DoubleEndedIterator<Item = &'a String> + Clone,
    has_previous_page: bool,
    has_next_page: bool,
) -> PageInfo {
    let start_cursor = cursors.clone().next().cloned();
    PageInfo { has_previous_page, has_next_page, start_cursor, end_cursor: cursors.next_back().cloned() }
}

//! The GraphiQL page. Its scripts come from a CDN, in pinned versions whose hashes the browser checks.

use serde_json::json;

/// The page, with the headers it sends filled in where a token is given.
pub fn page(token: Option<&str>) -> String {
    let headers = token.map_or(json!({}), |token| json!({ "Authorization": format!("Bearer {token}") }));
    include_str!("graphiql.html").replace("{{headers}}", &headers.to_string())
}

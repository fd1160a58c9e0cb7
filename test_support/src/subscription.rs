//! A subscription over an event stream.

use serde_json::{Value, json};

use crate::user::User;

pub struct Subscription {
    response: reqwest::Response,
    /// What has arrived of the events that are not yet returned.
    received: String,
}

impl Subscription {
    pub async fn start(user: &User, query: &str) -> Subscription {
        let request = user.http.post(format!("http://{}/graphql", user.address)).bearer_auth(&user.token);
        let request = request.header("accept", "text/event-stream").json(&json!({ "query": query }));
        let response = request.send().await.unwrap();
        let status = response.status();
        assert!(status.is_success(), "{status}: {:?}", response.text().await);
        Subscription { response, received: String::new() }
    }

    /// The next result, or `None` when the connection has ended, as when the api stops.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some((event, rest)) = self.received.split_once("\n\n") {
                // A comment, which keeps the connection open, has no data.
                let data = event.lines().find_map(|line| line.strip_prefix("data:"));
                let result = data.map(|data| serde_json::from_str(data).expect("a result"));
                self.received = rest.to_owned();
                if result.is_some() {
                    return result;
                }
                continue;
            }
            let chunk = self.response.chunk().await.ok()??;
            self.received += std::str::from_utf8(&chunk).unwrap();
        }
    }
}

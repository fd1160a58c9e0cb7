//! Spans are made only in traces that are recorded: one that nobody gets would take time, too.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use entity::outbox;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use runtime::telemetry::traces;
use sea_orm::{EntityTrait, PaginatorTrait};
use serde_json::json;
use tracing::span::{Attributes, Id};
use tracing::subscriber::set_default;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::{Layer, Registry, registry};

use crate::support::{ALL_SCOPES, Api, Db, PLACE, order, sqlite, until};

/// The names of the spans that our crates make, recorded or not.
#[derive(Clone, Default)]
struct Made(Arc<Mutex<BTreeSet<&'static str>>>);

impl Layer<Registry> for Made {
    fn on_new_span(&self, attributes: &Attributes<'_>, _: &Id, _: Context<'_, Registry>) {
        let metadata = attributes.metadata();
        if ["api", "runtime"].contains(&metadata.target().split("::").next().unwrap()) {
            self.0.lock().unwrap().insert(metadata.name());
        }
    }
}

impl Made {
    fn names(&self) -> BTreeSet<&'static str> {
        self.0.lock().unwrap().clone()
    }
}

/// Reads a client and places an order, whose event is published.
async fn use_api(api: &Api, db: &Db, traceparent: Option<&str>) {
    let place = json!({ "query": PLACE, "variables": order("1", &[("1", 1)], None) });
    for request in [json!({ "query": "{ client(id: \"1\") { id } }" }), place] {
        let request = api.request().bearer_auth(api.token(ALL_SCOPES, None)).json(&request);
        let request = traceparent.into_iter().fold(request, |request, value| request.header("traceparent", value));
        let response = request.send().await.unwrap().text().await.unwrap();
        assert!(response.starts_with("{\"data\"") && !response.contains("errors\""), "{response}");
    }
    until("the event is published", async || outbox::Entity::find().count(&db.connection).await.unwrap() == 0).await;
}

#[tokio::test]
async fn requests_whose_traces_are_not_recorded_make_no_span() {
    let (made, provider) = (Made::default(), SdkTracerProvider::builder().build());
    let of_callers = Sampler::ParentBased(Box::new(Sampler::AlwaysOff));
    let layers = vec![traces::span_layer(&provider, of_callers), made.clone().boxed()];
    let _here = set_default(registry().with(layers));
    let db = sqlite().await;
    let api = Api::start(&db).await;

    use_api(&api, &db, None).await;
    use_api(&api, &db, Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00")).await;
    assert_eq!(made.names(), BTreeSet::new());

    use_api(&api, &db, Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")).await;
    let all = [
        "request",
        "operation",
        "place order",
        "wait for transaction",
        "transaction orders",
        "create orders",
        "messages",
    ];
    assert_eq!(made.names(), BTreeSet::from(all));
}

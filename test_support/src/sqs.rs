//! SQS: the embedded one, one that fails on demand, and calls without the SDK.

use std::pin::Pin;

use aws_config::SdkConfig;
use serde_json::Value;
use winterbaume_core::{MockAws, MockRequest, MockResponse, MockService};
use winterbaume_sqs::SqsService;

/// The configuration of an SDK whose calls go to an embedded SQS.
pub async fn embedded() -> SdkConfig {
    config(SqsService::new()).await
}

/// An embedded SQS whose calls go through `handle`, which can pass them on to the SQS, change them or fail.
pub async fn intercepted(
    handle: impl for<'a> Fn(&'a SqsService, MockRequest) -> Handling<'a> + Send + Sync + 'static,
) -> SdkConfig {
    config(Intercepted { sqs: SqsService::new(), handle }).await
}

async fn config(service: impl MockService) -> SdkConfig {
    MockAws::builder().with_service(service).build().sdk_config("us-east-1").await
}

/// The response to come.
pub type Handling<'a> = Pin<Box<dyn Future<Output = MockResponse> + Send + 'a>>;

struct Intercepted<F> {
    sqs: SqsService,
    handle: F,
}

impl<F> MockService for Intercepted<F>
where
    F: for<'a> Fn(&'a SqsService, MockRequest) -> Handling<'a> + Send + Sync + 'static,
{
    fn service_name(&self) -> &str {
        self.sqs.service_name()
    }

    fn url_patterns(&self) -> Vec<&str> {
        self.sqs.url_patterns()
    }

    fn handle(&self, request: MockRequest) -> Handling<'_> {
        (self.handle)(&self.sqs, request)
    }
}

/// Whether a request is a call of this action, such as `SendMessageBatch`.
pub fn is_call(request: &MockRequest, action: &str) -> bool {
    let target = request.headers.get("x-amz-target").and_then(|target| target.to_str().ok());
    target.and_then(|target| target.strip_prefix("AmazonSQS.")) == Some(action)
}

/// Calls SQS without the SDK.
pub async fn call(http: &reqwest::Client, endpoint: &str, action: &str, body: Value) -> Value {
    let request = http.post(endpoint).header("x-amz-target", format!("AmazonSQS.{action}")).body(body.to_string());
    let response = request.send().await.unwrap().text().await.unwrap();
    serde_json::from_str(&response).unwrap_or_default()
}

//! Requests with POST.

use axum::body::{Body, to_bytes};
use axum::http::Request;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::check_errors;
use crate::service::Service;

/// Operations with variables of all input types.
const OPERATIONS: &str = include_str!("variables.graphql");
const NAMES: [&str; 7] = ["Reads", "Reports", "PlaceOrder", "PlaceItems", "Clients", "Products", "Refunds"];

/// Sends the body of a request, and returns the codes of the errors.
pub async fn send(service: &Service, body: Vec<u8>) -> Vec<String> {
    let request = Request::post("/graphql")
        .header("host", "localhost")
        .header("content-type", "application/json")
        .header("authorization", &service.authorization)
        .body(Body::from(body))
        .unwrap();
    let response = service.router.clone().oneshot(request).await.unwrap();
    let status = response.status();
    assert!(!status.is_server_error(), "{status}");
    let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    let body: Value = serde_json::from_slice(&body).expect("the body is not JSON");
    check_errors(body["errors"].as_array().into_iter().flatten())
}

/// Sends an operation with these variables. The first byte selects the operation.
pub async fn send_variables(service: &Service, input: &[u8]) {
    let (first, variables) = input.split_first().unwrap_or((&b'0', b"null"));
    let name = NAMES[usize::from(first.wrapping_sub(b'0')) % NAMES.len()];
    let start = format!("{{\"query\":{},\"operationName\":{},\"variables\":", json!(OPERATIONS), json!(name));
    let codes = send(service, [start.as_bytes(), variables, b"}"].concat()).await;
    assert!(!codes.iter().any(|code| code == "GRAPHQL_VALIDATION_FAILED"), "the operations do not fit the schema");
}

//! The parameters of a request: <https://graphql.github.io/graphql-over-http/draft/#sec-Request-Parameters>.

use apollo_compiler::response::JsonMap;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::edge::executor::Parameters;

/// As they are in JSON. One that is null is absent.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sent {
    query: Option<String>,
    operation_name: Option<String>,
    variables: Option<JsonMap>,
    extensions: Option<Map<String, Value>>,
    document_id: Option<String>,
}

/// The same in a URL, where one that is empty is absent, and maps are JSON.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UrlParameters {
    query: String,
    operation_name: String,
    variables: String,
    extensions: String,
    document_id: String,
}

impl Sent {
    fn parameters(self) -> Result<Parameters, String> {
        // https://www.apollographql.com/docs/apollo-server/performance/apq
        let persisted = self.extensions.as_ref().and_then(|extensions| extensions.get("persistedQuery"));
        let document_id = match persisted {
            None | Some(Value::Null) => self.document_id,
            Some(persisted) => match (persisted["version"].as_u64(), persisted["sha256Hash"].as_str()) {
                (Some(1), Some(hash)) => Some(hash.to_owned()),
                _ => return Err("`extensions.persistedQuery` needs the `version` 1 and a `sha256Hash`.".into()),
            },
        };
        // Beside an id an empty text is none: the protocol of graphql-ws does not let clients leave it out.
        let query = self.query.filter(|text| !text.is_empty() || document_id.is_none());
        if query.is_none() && document_id.is_none() {
            return Err("The parameter `query` is missing.".into());
        }
        Ok(Parameters {
            query,
            operation_name: self.operation_name,
            variables: self.variables.unwrap_or_default(),
            document_id,
        })
    }
}

impl UrlParameters {
    pub fn are_absent(&self) -> bool {
        self.query.is_empty() && self.extensions.is_empty() && self.document_id.is_empty()
    }

    pub fn parameters(self) -> Result<Parameters, String> {
        fn map<T: for<'a> Deserialize<'a>>(name: &str, json: &str) -> Result<Option<T>, String> {
            let parse = |json| serde_json::from_str(json);
            let map = Some(json).filter(|json| !json.is_empty()).map(parse).transpose();
            map.map_err(|error| format!("`{name}` is not a map in JSON: {error}."))
        }
        let text = |text: String| Some(text).filter(|text| !text.is_empty());
        let (variables, extensions) = (map("variables", &self.variables)?, map("extensions", &self.extensions)?);
        let (query, operation_name) = (text(self.query), text(self.operation_name));
        Sent { query, operation_name, variables, extensions, document_id: text(self.document_id) }.parameters()
    }
}

/// Reads the body of a request.
pub fn from_json(body: &[u8]) -> Result<Parameters, String> {
    // A structure could be read from an array as well.
    if body.trim_ascii_start().first() == Some(&b'[') {
        return Err("The body is an array: send each request by itself.".into());
    }
    let sent: Sent = serde_json::from_slice(body).map_err(|error| not_a_request(&error))?;
    sent.parameters()
}

/// Reads the payload of a message.
pub fn from_value(payload: Value) -> Result<Parameters, String> {
    if !payload.is_object() {
        return Err("The payload is not a GraphQL request.".into());
    }
    let sent: Sent = serde_json::from_value(payload).map_err(|error| not_a_request(&error))?;
    sent.parameters()
}

fn not_a_request(error: &serde_json::Error) -> String {
    format!("This is not a GraphQL request in JSON: {error}.")
}

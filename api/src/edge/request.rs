//! The parameters of a GraphQL request: <https://graphql.github.io/graphql-over-http/draft/#sec-Request-Parameters>.

use apollo_compiler::response::JsonMap;
use serde::Deserialize;
use serde_json::{Map, Value};

#[derive(Debug)]
pub struct Parameters {
    pub query: Option<String>,
    pub operation_name: Option<String>,
    pub variables: JsonMap,
    /// The id or the hash of a document. With `query`, it names that text.
    pub document_id: Option<String>,
}

/// The parameters in JSON. A null parameter is an absent one, and so is an empty name.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonParameters {
    query: Option<String>,
    operation_name: Option<String>,
    variables: Option<JsonMap>,
    extensions: Option<Map<String, Value>>,
    document_id: Option<String>,
}

/// The parameters in a URL. An empty parameter is an absent one, and maps are JSON.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UrlParameters {
    query: String,
    operation_name: String,
    variables: String,
    extensions: String,
    document_id: String,
}

impl TryFrom<JsonParameters> for Parameters {
    type Error = String;

    fn try_from(parameters: JsonParameters) -> Result<Parameters, String> {
        // https://www.apollographql.com/docs/apollo-server/performance/apq
        let persisted = parameters.extensions.as_ref().and_then(|extensions| extensions.get("persistedQuery"));
        let document_id = match persisted {
            None | Some(Value::Null) => parameters.document_id,
            Some(persisted) => match (persisted["version"].as_f64(), persisted["sha256Hash"].as_str()) {
                (Some(1.0), Some(hash)) => Some(hash.to_owned()),
                _ => return Err("`extensions.persistedQuery` needs `version` 1 and a `sha256Hash`.".into()),
            },
        };
        // Clients of graphql-ws must send `query`: with an id they leave it empty.
        let query = parameters.query.filter(|text| !text.is_empty() || document_id.is_none());
        if query.is_none() && document_id.is_none() {
            return Err("The parameter `query` is missing.".into());
        }
        Ok(Parameters {
            query,
            operation_name: parameters.operation_name.filter(|name| !name.is_empty()),
            variables: parameters.variables.unwrap_or_default(),
            document_id,
        })
    }
}

impl TryFrom<UrlParameters> for Parameters {
    type Error = String;

    fn try_from(parameters: UrlParameters) -> Result<Parameters, String> {
        fn map<T: for<'a> Deserialize<'a>>(name: &str, json: &str) -> Result<Option<T>, String> {
            let parse = |json| serde_json::from_str(json);
            let map = Some(json).filter(|json| !json.is_empty()).map(parse).transpose();
            map.map_err(|error| format!("`{name}` is not a JSON object: {error}."))
        }
        let text = |text: String| Some(text).filter(|text| !text.is_empty());
        JsonParameters {
            query: text(parameters.query),
            operation_name: Some(parameters.operation_name),
            variables: map("variables", &parameters.variables)?,
            extensions: map("extensions", &parameters.extensions)?,
            document_id: text(parameters.document_id),
        }
        .try_into()
    }
}

impl Parameters {
    /// Reads the body of an HTTP request or the payload of a WebSocket message.
    pub fn from_json(body: &[u8]) -> Result<Parameters, String> {
        // Receivers may ignore a byte order mark (RFC 8259, section 8.1).
        let body = body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(body);
        // Serde also accepts an array for a struct.
        if body.trim_ascii_start().first() == Some(&b'[') {
            return Err("The request is an array: batches are not supported, send each request separately.".into());
        }
        let parameters: JsonParameters = serde_json::from_slice(body).map_err(|error| invalid(&error))?;
        parameters.try_into()
    }
}

fn invalid(error: &serde_json::Error) -> String {
    format!("The request is not a GraphQL request in JSON: {error}.")
}

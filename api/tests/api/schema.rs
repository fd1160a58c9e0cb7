//! Introspection, the pages, and the shape of responses.

use std::sync::Arc;

use api::edge::settings::SchemaExposure;
use read_model::Memory;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::{ALL_SCOPES, Api, code, exposure, queue, sqlite};

#[tokio::test]
async fn introspection_and_pages_are_off_unless_enabled() {
    let db = sqlite().await;
    let start =
        async |exposure| Api::start_exposing(&db, Arc::new(Memory::default()), queue().await, &[], exposure).await;
    let closed = start(SchemaExposure::Hidden).await;
    let schema = "{ __schema { queryType { name } } }";
    let response = closed.graphql(&closed.token(ALL_SCOPES, None), schema, json!({})).await;
    assert_eq!((code(&response), response.get("data")), ("INTROSPECTION_DISABLED", None));
    let token = closed.token("", None);
    assert_eq!(closed.graphql(&token, "{ __typename }", json!({})).await["data"]["__typename"], json!("Query"));
    let misspelt = closed.graphql(&token, "{ clyent(id: 1) { id } }", json!({})).await;
    assert_eq!(code(&misspelt), "GRAPHQL_VALIDATION_FAILED");
    assert!(!misspelt.to_string().contains("client"), "no suggestions: {misspelt}");
    for path in ["/", "/graphiql/", "/graphiql/config.json", "/admin", "/dashboard", "/shop", "/pages/config.json"] {
        assert_eq!(closed.get(path).send().await.unwrap().status(), StatusCode::NOT_FOUND, "{path}");
    }
    let readable = start(SchemaExposure::Introspection).await;
    assert_eq!(
        readable.graphql(&token, schema, json!({})).await["data"]["__schema"]["queryType"]["name"],
        json!("Query")
    );
    assert_eq!(readable.get("/graphiql/").send().await.unwrap().status(), StatusCode::NOT_FOUND);

    let open = start(exposure()).await;
    let page = open.get("/").header("accept", "text/html").send().await.unwrap();
    assert_eq!((page.status(), page.url().path()), (StatusCode::OK, "/graphiql/"));
    let policy = page.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.starts_with("default-src 'self'") && !policy.contains("unsafe-eval"), "{policy}");
    assert!(page.text().await.unwrap().contains("GraphiQL"));
    let config = open.get("/graphiql/config.json").send().await.unwrap().json::<Value>().await.unwrap();
    assert_eq!(config["headers"], json!({ "Authorization": "Bearer of-the-page" }));
    for example in config["examples"].as_array().unwrap() {
        let request = open.request().bearer_auth(open.token("", None));
        let request = request.header("accept", "text/event-stream, application/json;q=0.5");
        let mut response = request.json(&json!({ "query": example })).send().await.unwrap();
        let first = response.chunk().await.unwrap().unwrap();
        assert!(String::from_utf8_lossy(&first).contains("FORBIDDEN"), "an example is invalid: {example}");
    }
    let rebound = open.get("/graphiql/config.json").header("host", "evil.example.com").send().await.unwrap();
    assert_eq!(rebound.json::<Value>().await.unwrap()["headers"], json!({}), "another host name gets no token");

    // The same for the other pages, which pages.test.js opens in a browser.
    let pages = Api::start_with(&db, &["--dashboard"]).await;
    let config = async |host: &str| {
        let response = pages.get("/pages/config.json").header("host", host).send().await.unwrap();
        response.json::<Value>().await.unwrap()["headers"].clone()
    };
    assert_eq!(config("127.0.0.1").await, json!({ "Authorization": "Bearer of-the-page" }));
    assert_eq!(config("evil.example.com").await, json!({}));
    for path in ["/graphiql/../Cargo.toml", "/graphiql/%2e%2e/Cargo.toml", "/graphiql/assets/none.js"] {
        assert_eq!(open.get(path).send().await.unwrap().status(), StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test]
async fn the_shop_gets_a_token_for_one_client_during_development() {
    let api = Api::start_with(&sqlite().await, &["--dashboard"]).await;
    let config = async |query: &str, host: &str| {
        let request = api.get(&format!("/pages/config.json{query}")).header("host", host);
        request.send().await.unwrap().json::<Value>().await.unwrap()
    };
    let found = config("?client=2", "localhost").await;
    assert_eq!(found["claims"], json!({ "client": "orders_client", "scope": "scope", "scopePrefix": "" }));
    let token = found["headers"]["Authorization"].as_str().unwrap().strip_prefix("Bearer ").unwrap();
    let own = "{ client(id: 2) { name } products { nodes { id } } orders { nodes { clientId } } }";
    assert_eq!(code(&api.graphql(token, own, json!({})).await), "none");
    for other in ["{ client(id: 1) { name } }", "{ clients { nodes { name } } }"] {
        assert_eq!(code(&api.graphql(token, other, json!({})).await), "FORBIDDEN", "{other}");
    }
    assert_eq!(config("?client=2", "evil.example.com").await["headers"], json!({}));
    let wrong = api.get("/pages/config.json?client=x").header("host", "localhost").send().await.unwrap();
    assert_eq!(wrong.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn the_back_office_gets_the_locale_and_the_time_zone_of_the_shop() {
    let config = async |arguments: &[&str]| {
        let api = Api::start_with(&sqlite().await, arguments).await;
        api.get("/pages/config.json").send().await.unwrap().json::<Value>().await.unwrap()
    };
    let unset = config(&["--dashboard"]).await;
    assert_eq!((&unset["locale"], &unset["timeZone"]), (&Value::Null, &Value::Null));
    let set = config(&["--dashboard", "--shop-locale", "pt-BR", "--shop-time-zone", "America/Sao_Paulo"]).await;
    assert_eq!((&set["locale"], &set["timeZone"]), (&json!("pt-BR"), &json!("America/Sao_Paulo")));
}

#[tokio::test]
async fn with_a_provider_pages_may_send_requests_to_it_and_get_no_token() {
    let flags = ["--dashboard", "--oidc-issuer", "https://login.example.com/shop", "--oidc-client-id", "pages"];
    let api = Api::start_with(&sqlite().await, &flags).await;
    for path in ["/pages/config.json", "/pages/config.json?client=1", "/graphiql/config.json"] {
        let response = api.get(path).header("host", "localhost").send().await.unwrap();
        let config: Value = response.json().await.unwrap();
        assert_eq!(config["headers"], json!({}), "{path}");
        let expected = json!({
            "issuer": "https://login.example.com/shop",
            "clientId": "pages",
            "scope": "openid offline_access",
            "audience": null,
        });
        assert_eq!(config["oidc"], expected, "{path}");
    }
    let page = api.get("/graphiql/").send().await.unwrap();
    let policy = page.headers()["content-security-policy"].to_str().unwrap();
    assert!(policy.ends_with("; connect-src 'self' https://login.example.com"), "{policy}");
}

#[tokio::test]
async fn introspection_works_and_everything_has_a_description() {
    let api = Api::start(&sqlite().await).await;
    // As deep as the query of GraphiQL: nine levels of wrapped types.
    let of_type = (0..9).fold("name".to_owned(), |inner, _| format!("kind name ofType {{ {inner} }}"));
    let query = format!(
        "{{ __schema {{ types {{ name description specifiedByURL
            fields {{ name description args {{ name description type {{ {of_type} }} }} type {{ {of_type} }} }}
            inputFields {{ name description type {{ {of_type} }} }} enumValues {{ name description }} }} }} }}"
    );
    let response = api.graphql(&api.token("", None), &query, json!({})).await;
    let mut undescribed = Vec::new();
    let mut look = |path: String, thing: &Value| {
        if thing["description"].as_str().is_none_or(str::is_empty) {
            undescribed.push(path);
        }
    };
    for kind in response["data"]["__schema"]["types"].as_array().unwrap_or_else(|| panic!("{response}")) {
        let name = kind["name"].as_str().unwrap();
        if name.starts_with("__") || ["Boolean", "Float", "ID", "Int", "String"].contains(&name) {
            continue;
        }
        look(name.into(), kind);
        for members in ["fields", "inputFields", "enumValues"] {
            for member in kind[members].as_array().into_iter().flatten() {
                look(format!("{name}.{}", member["name"]), member);
                for argument in member["args"].as_array().into_iter().flatten() {
                    look(format!("{name}.{}({})", member["name"], argument["name"]), argument);
                }
            }
        }
    }
    assert_eq!(undescribed, [""; 0]);
}

#[tokio::test]
async fn a_failing_field_is_null_and_fields_keep_their_order() {
    let api = Api::start(&sqlite().await).await;
    let token = api.token("products:read", None);
    let query = "{ c: clientsByIds(ids: [\"1\"]) { id } b: __typename a: product(id: \"1\") { name id } }";
    let request = api.request().bearer_auth(&token).json(&json!({ "query": query }));
    let text = request.send().await.unwrap().text().await.unwrap();
    assert!(
        text.starts_with(r#"{"data":{"c":null,"b":"Query","a":{"name":"Computer","id":"1"}},"errors":[{"#),
        "{text}"
    );
    assert_eq!(code(&serde_json::from_str(&text).unwrap()), "FORBIDDEN");
}

#[tokio::test]
async fn introspection_answers_what_it_advertises() {
    let api = Api::start(&sqlite().await).await;
    // The query of current tools: graphql-js with `oneOf`, `inputValueDeprecation`, `schemaDescription` and
    // `directiveIsRepeatable`.
    let value = "name isDeprecated deprecationReason";
    let query = format!(
        "{{ __schema {{ description
            types {{ kind name isOneOf
                fields(includeDeprecated: true) {{ name args(includeDeprecated: true) {{ {value} }} }}
                inputFields(includeDeprecated: true) {{ {value} }} }}
            directives {{ name isRepeatable locations args(includeDeprecated: true) {{ {value} }} }} }} }}"
    );
    let response = api.graphql(&api.token("", None), &query, json!({})).await;
    assert_eq!(response["errors"], Value::Null);
    let schema = &response["data"]["__schema"];
    for kind in schema["types"].as_array().unwrap() {
        let expected = if kind["kind"] == "INPUT_OBJECT" { json!(false) } else { Value::Null };
        assert_eq!(kind["isOneOf"], expected, "{kind}");
        let of_fields =
            kind["fields"].as_array().into_iter().flatten().flat_map(|field| field["args"].as_array().unwrap());
        for value in of_fields.chain(kind["inputFields"].as_array().into_iter().flatten()) {
            assert_eq!((&value["isDeprecated"], &value["deprecationReason"]), (&json!(false), &Value::Null), "{kind}");
        }
    }
    for directive in schema["directives"].as_array().unwrap() {
        assert!(directive["args"].is_array() && directive["isRepeatable"].is_boolean(), "{directive}");
    }
    // The fields and arguments that introspection reports about itself.
    let own = "{ __type(name: \"__Type\") { fields { name args { name } } } }";
    let response = api.graphql(&api.token("", None), own, json!({})).await;
    let fields = response["data"]["__type"]["fields"].as_array().unwrap();
    for field in fields {
        let name = field["name"].as_str().unwrap();
        let selection = match name {
            "fields" | "interfaces" | "possibleTypes" | "enumValues" | "inputFields" | "ofType" => "{ name }",
            _ => "",
        };
        for include in [json!(true), json!(false)] {
            let (variable, argument) = match field["args"][0]["name"].as_str() {
                Some(argument) => ("($v: Boolean!)", format!("({argument}: $v)")),
                None => ("", String::new()),
            };
            let query =
                format!("query {variable} {{ __type(name: \"PlaceOrderInput\") {{ {name}{argument} {selection} }} }}");
            let response = api.graphql(&api.token("", None), &query, json!({ "v": include })).await;
            assert_eq!(response["errors"], Value::Null, "{query}");
        }
    }
}

#[tokio::test]
async fn null_for_include_deprecated_is_refused() {
    let api = Api::start(&sqlite().await).await;
    let token = api.token("", None);
    let arguments = [
        ("PlaceOrderInput", "inputFields(includeDeprecated: VALUE) { name }"),
        ("Query", "fields(includeDeprecated: VALUE) { name }"),
        ("Query", "fields { args(includeDeprecated: VALUE) { name } }"),
        ("ClientSort", "enumValues(includeDeprecated: VALUE) { name }"),
    ];
    let types = arguments.map(|(ty, field)| format!("__type(name: \"{ty}\") {{ {field} }}"));
    let directives = "__schema { directives { args(includeDeprecated: VALUE) { name } } }".to_owned();
    for field in types.into_iter().chain([directives]) {
        let literal = format!("{{ {} }}", field.replace("VALUE", "null"));
        assert_eq!(code(&api.graphql(&token, &literal, json!({})).await), "GRAPHQL_VALIDATION_FAILED", "{field}");
        let variable = format!("query ($value: Boolean) {{ {} }}", field.replace("VALUE", "$value"));
        for (variables, expected) in [(json!({ "value": null }), "BAD_USER_INPUT"), (json!({}), "none")] {
            assert_eq!(code(&api.graphql(&token, &variable, variables).await), expected, "{field}");
        }
    }
}

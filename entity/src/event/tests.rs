use super::*;
use crate::order_event;
use serde_json::json;

/// Reads a message that was sent a day after 1,700,000,000 s.
fn parse(message: &str) -> Result<Event, InvalidEvent> {
    Event::parse(message, "USD", DateTime::from_timestamp(1_700_086_400, 0).unwrap())
}

fn row() -> order_event::Model {
    let order = OrderPlaced {
        client_id: 1,
        client_name: "Bob".into(),
        client_email: "bob@anemailprovider.com".into(),
        order_id: Uuid::now_v7(),
        currency: "USD".into(),
        total: 300_000,
        lines: vec![
            Line { product_id: 1, name: "Computer".into(), unit_price: 150_000, quantity: 1 },
            Line { product_id: 2, name: "Phone \u{1f4f1} \u{ffff}".into(), unit_price: 50_000, quantity: 3 },
        ],
    };
    order_event::Model {
        id: Uuid::now_v7(),
        client_id: Some(1),
        product_id: None,
        version: 7,
        r#type: ORDER_PLACED.into(),
        payload: serde_json::to_value(order).unwrap(),
        occurred_at: DateTime::from_timestamp_millis(1_700_000_000_123).unwrap(),
        traceparent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into()),
        actor: Some("bob\r\n@shop".into()),
        actor_is_client: Some(true),
    }
}

#[test]
fn a_message_is_read_back_as_the_stored_row() {
    let message = row().message();
    assert!(message.contains(r#""sequence":"0000000007""#), "{message}");
    assert!(message.contains(r#""authtype":"app_user","authid":"bob\r\n@shop""#), "{message}");
    assert!(!message.contains('\u{ffff}'), "SQS rejects this character");
    let parsed = parse(&message).unwrap();
    let (id, order_id) = (parsed.id, parsed.order().unwrap().order_id);
    let mut stored = row();
    (stored.id, stored.payload["orderId"]) = (id, json!(order_id));
    assert_eq!(Event::from_row(stored, "USD").unwrap(), parsed);
}

#[test]
fn unknown_fields_and_missing_optional_attributes_are_accepted() {
    let mut message: Json = serde_json::from_str(&row().message()).unwrap();
    message["somethingNew"] = json!({"a": 1});
    message["data"]["coupon"] = json!("X");
    message["data"]["lines"][0]["colour"] = json!("red");
    for optional in ["traceparent", "authtype", "authid", "datacontenttype"] {
        message.as_object_mut().unwrap().remove(optional);
    }
    parse(&message.to_string()).unwrap();
}

#[test]
fn an_invalid_message_is_rejected_with_the_reason() {
    let changes: &[(&str, Json, &str)] = &[
        ("/specversion", json!("0.3"), "specversion"),
        ("/type", json!("orders.OrderPlaced.v2"), "unknown event type"),
        ("/type", json!(PRICE_CHANGED), "not a CloudEvent"),
        ("/subject", json!("2"), "subject"),
        ("/subject", json!("01"), "subject"),
        ("/sequence", json!("0"), "below 1"),
        ("/sequence", json!("99999999999"), "32-bit"),
        ("/sequence", json!(7), "not a CloudEvent"),
        ("/id", json!("7"), "not a CloudEvent"),
        ("/time", json!("yesterday"), "not a CloudEvent"),
        ("/time", json!("1969-12-31T23:59:59Z"), "time"),
        ("/time", json!("+40000-01-01T00:00:00Z"), "time"),
        ("/time", json!("2023-11-16T22:13:20.001Z"), "more than a day ahead"),
        ("/time", json!("9999-12-31T00:00:00Z"), "more than a day ahead"),
        ("/data/lines", json!([]), "out of range"),
        ("/data/lines/0/quantity", json!(0), "out of range"),
        ("/data/lines/0/quantity", json!(10_001), "out of range"),
        ("/data/lines/0/unitPrice", json!(-1), "out of range"),
        ("/data/lines/0/unitPrice", json!(i64::MAX), "not the sum"),
        ("/data/lines/0/unitPrice", json!(0.5), "not a CloudEvent"),
        ("/data/clientId", json!(0), "data.clientId"),
        ("/data/clientId", json!(-5), "data.clientId"),
        ("/data/lines/0/productId", json!(-1), "out of range"),
        ("/data/currency", json!("EUR"), "amounts are in EUR"),
        ("/data/clientName", json!("x".repeat(MAX_NAME + 1)), "too long"),
        ("/data/clientEmail", json!("x".repeat(MAX_NAME + 1)), "too long"),
        ("/data/lines/1/name", json!("x".repeat(MAX_NAME + 1)), "too long"),
        ("/data/clientName", json!("B\u{85}ob"), "control"),
        ("/data/clientEmail", json!("bob@example.com\n"), "control"),
        ("/data/lines/1/name", json!("Pho\0ne"), "control"),
        ("/data/total", json!(300_001), "not the sum"),
        ("/data/total", json!(null), "not a CloudEvent"),
    ];
    for (path, value, reason) in changes {
        let mut message: Json = serde_json::from_str(&row().message()).unwrap();
        *message.pointer_mut(path).unwrap() = value.clone();
        let error = parse(&message.to_string()).unwrap_err().to_string();
        assert!(error.contains(reason), "{path} = {value}: {error}");
    }
    let mut message: Json = serde_json::from_str(&row().message()).unwrap();
    let longest = "x".repeat(MAX_NAME);
    let valid = [
        ("/time", "2023-11-16T22:13:20Z"),
        ("/data/clientName", &longest),
        ("/data/clientName", "ශ\u{dca}\u{200d}රී"),
        ("/data/lines/1/name", "👩\u{200d}🚀"),
    ];
    for (path, valid) in valid {
        *message.pointer_mut(path).unwrap() = json!(valid);
        parse(&message.to_string()).unwrap();
    }
    let changed = |r#type: &str, data: Json| {
        let mut message: Json = serde_json::from_str(&row().message()).unwrap();
        (message["type"], message["data"]) = (json!(r#type), data);
        parse(&message.to_string()).map(|event| event.data)
    };
    let bob = json!({ "clientId": 1, "clientName": "Bob", "clientEmail": "bob@anemailprovider.com" });
    assert!(matches!(changed(CLIENT_REGISTERED, bob.clone()), Ok(Change::Client(_))));
    assert!(changed(CLIENT_UPDATED, json!({ "clientId": 1, "clientName": "Bob" })).is_err());
    assert!(changed(PRODUCT_CREATED, bob).is_err());
    let refund = |amount, amounts: Json| {
        let mut data = serde_json::to_value(row().payload).unwrap();
        (data["placedAt"], data["placedVersion"]) = (json!("2023-11-14T22:13:20Z"), json!(3));
        (data["amount"], data["amounts"]) = (json!(amount), amounts);
        data
    };
    assert!(matches!(changed(ORDER_REFUNDED, refund(10, json!([0, 10]))), Ok(Change::OrderRefunded(_))));
    assert!(matches!(changed(ORDER_CANCELLED, refund(0, json!([0, 0]))), Ok(Change::OrderCancelled(_))));
    for (amount, amounts) in [
        (0, json!([0, 0])),
        (10, json!([10])),
        (10, json!([5, 6])),
        (-1, json!([-1, 0])),
        (150_001, json!([150_001, 0])),
        (10, json!([i64::MAX, i64::MIN])),
    ] {
        assert!(changed(ORDER_REFUNDED, refund(amount, amounts.clone())).is_err(), "{amount} {amounts}");
    }
    let long = "x".repeat(MAX_NAME + 1);
    let product = |price, currency, name| json!({ "productId": 1, "name": name, "price": price, "currency": currency });
    assert!(matches!(changed(PRICE_CHANGED, product(5, "USD", "TV")), Ok(Change::Product(_))));
    assert!(matches!(changed(PRODUCT_CREATED, product(MAX_TOTAL, "USD", &long[1..])), Ok(Change::Product(_))));
    for (price, currency, name) in
        [(-1, "USD", "TV"), (MAX_TOTAL + 1, "USD", "TV"), (5, "EUR", "TV"), (5, "USD", &long)]
    {
        assert!(changed(PRICE_CHANGED, product(price, currency, name)).is_err(), "{price} {currency} {name}");
    }
    let broken = product(5, "USD", "T\u{9b}V");
    assert!(changed(PRODUCT_CREATED, broken).unwrap_err().to_string().contains("control"));
    let mut reason = refund(10, json!([0, 10]));
    reason["reason"] = json!("broken\u{1b}");
    assert!(changed(ORDER_REFUNDED, reason).unwrap_err().to_string().contains("control"));
    for text in ["", "null", "[]", "{}", "\"hello\"", "{\"specversion\":\"1.0\"}"] {
        assert!(matches!(parse(text), Err(InvalidEvent::Syntax(_))), "{text}");
    }
    assert!(parse(&"[".repeat(100_000)).is_err(), "deep nesting is an error, not a stack overflow");
}

#[test]
fn an_event_is_read_from_the_envelopes_of_aws() {
    let message = row().message();
    let event: Json = serde_json::from_str(&message).unwrap();
    let notification = json!({ "Type": "Notification", "TopicArn": "arn", "Message": message });
    let record = |body: Json| json!({ "messageId": "1", "body": body, "eventSource": "aws:sqs" });
    let bus_event = |detail: Json| json!({ "version": "0", "detail-type": "orders", "detail": detail });
    for envelope in [
        notification.clone(),
        record(json!(message)),
        record(event.clone()),
        bus_event(event.clone()),
        bus_event(record(json!(message))),
        bus_event(record(json!(notification.to_string()))),
    ] {
        assert_eq!(parse(&envelope.to_string()).unwrap(), parse(&message).unwrap(), "{envelope}");
    }
}

/// A future release may add such fields.
#[test]
fn an_event_is_not_an_envelope_whatever_fields_it_has() {
    let message = row().message();
    for field in ["Message", "detail", "body"] {
        let mut extended: Json = serde_json::from_str(&message).unwrap();
        extended[field] = json!("{}");
        assert_eq!(parse(&extended.to_string()).unwrap(), parse(&message).unwrap(), "{field}");
    }
}

#[test]
fn a_hostile_envelope_is_refused() {
    let nested = |levels: usize| (0..levels).fold(json!(row().message()), |inner, _| json!({ "detail": inner }));
    assert!(parse(&nested(3).to_string()).is_ok());
    for levels in [4, 100] {
        assert!(matches!(parse(&nested(levels).to_string()), Err(InvalidEvent::Syntax(_))), "{levels}");
    }
    for message in [
        &*r#"{"detail":"#.repeat(10_000),
        r#"{"Message":null}"#,
        r#"{"Message":7}"#,
        r#"{"Message":""}"#,
        r#"{"detail":[]}"#,
        r#"{"body":"{\"Message\":\"{}\"}"}"#,
        r#"{"Message":"{}","Message":"{}"}"#,
    ] {
        assert!(matches!(parse(message), Err(InvalidEvent::Syntax(_))), "{message:.40}");
    }
}

/// Earlier releases stored such names, and the log still has them.
#[test]
fn a_message_with_invisible_characters_is_read_as_its_row() {
    for name in ["Ju\u{ad}lia", "B\u{200b}ob", "B\u{202e}ob", "می\u{200c}", "\u{2060}"] {
        let mut stored = row();
        stored.payload["clientName"] = json!(name);
        stored.payload["lines"][1]["name"] = json!(name);
        let parsed = parse(&stored.message()).unwrap();
        assert_eq!(Event::from_row(stored, "USD").unwrap(), parsed);
    }
}

/// A reason is a part of a log line.
#[test]
fn a_reason_is_short_and_printable_whatever_the_message_contains() {
    let forged = "USD\r\n2026-11-27T00:00:00Z ERROR \u{1b}[31m\u{202e}\u{85}\u{2028}";
    for path in ["/specversion", "/id", "/type", "/subject", "/time", "/sequence", "/data/currency", "/data/orderId"] {
        for text in [forged, &format!("\n{forged}"), &forged.repeat(1_000)] {
            let mut message: Json = serde_json::from_str(&row().message()).unwrap();
            *message.pointer_mut(path).unwrap() = json!(text);
            let reason = parse(&message.to_string()).unwrap_err().to_string();
            assert!(reason.chars().count() < 300, "{path}: {reason}");
            let is_printable = |character: char| character == '\\' || character.escape_debug().len() == 1;
            assert!(
                reason.chars().all(|character| is_printable(character) || "\"'".contains(character)),
                "{path}: {reason}"
            );
        }
    }
}

#[test]
fn a_reason_without_content_repeats_no_text_of_the_message() {
    for (path, value) in
        [("/data/clientId", json!("Bob")), ("/data/lines", json!("Bob")), ("/type", json!("Bob <bob@example.com>"))]
    {
        let mut message: Json = serde_json::from_str(&row().message()).unwrap();
        *message.pointer_mut(path).unwrap() = value;
        let error = parse(&message.to_string()).unwrap_err();
        assert!(error.to_string().contains("Bob"), "{path}: {error}");
        assert!(!error.without_content().contains("Bob"), "{path}: {}", error.without_content());
    }
    let long = format!(r#"{{"specversion":"1.0","id":"{}"}}"#, "Bob".repeat(500));
    assert!(!parse(&long).unwrap_err().without_content().contains("BobBob"));
    let later = row().message().replace("OrderPlaced.v1", "OrderPlaced.v2");
    assert!(parse(&later).unwrap_err().without_content().contains("orders.OrderPlaced.v2"), "a release is told apart");
}

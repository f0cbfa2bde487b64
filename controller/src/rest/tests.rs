use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::http::Request;
use sarit_env::net::TcpNet;
use sarit_env::{Clock, Rng};
use serde_json::{Value, json};
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use super::*;
use crate::placement::hosts::Hosts;
use crate::store::MemoryStore;
use crate::testing::MemorySegments;
use crate::{Config, Controller, Parts};

/// The routes of a controller with its records and segments in memory.
async fn rest() -> Router {
    let endpoint = sarit_client::connection::Endpoint::new("store.test", 12345);
    let hosts = Hosts::Static {
        advertised: endpoint.clone(),
        connect: endpoint,
    };
    let parts = Parts {
        net: Arc::new(TcpNet),
        clock: Clock::from_fn(|| 7_000),
        rng: Rng::seeded(1),
        store: Arc::new(MemoryStore::new()),
    };
    let config = Config {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        ..Config::default()
    };
    let segments = Arc::new(MemorySegments::default());
    let controller =
        Controller::assemble(config, parts, Arc::new(hosts), segments, TaskTracker::new());
    controller.await.unwrap().rest()
}

async fn ask(rest: &Router, method: &str, path: &str, body: Value) -> (u16, Value) {
    let body = match body {
        Value::Null => Body::empty(),
        body => Body::from(body.to_string()),
    };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .body(body)
        .unwrap();
    let response = rest.clone().oneshot(request).await.unwrap();
    let code = response.status().as_u16();
    let bytes = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (code, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
}

async fn get(rest: &Router, path: &str) -> (u16, Value) {
    ask(rest, "GET", path, Value::Null).await
}

fn stream(name: &str) -> Value {
    json!({
        "streamName": name,
        "scalingPolicy": {"type": "BY_RATE_IN_EVENTS_PER_SEC", "targetRate": 100, "scaleFactor": 2, "minSegments": 3},
        "retentionPolicy": {"type": "LIMITED_DAYS", "value": 0, "timeBasedRetention": {"days": 1, "hours": 2, "minutes": 3}},
        "streamTags": ["b", "a"]
    })
}

#[tokio::test]
async fn a_stream_lives_from_creation_to_deletion() {
    let rest = rest().await;
    let scope = json!({"scopeName": "sc"});
    assert_eq!(
        ask(&rest, "POST", "/v1/scopes", scope.clone()).await,
        (201, scope.clone())
    );
    assert_eq!(ask(&rest, "POST", "/v1/scopes", scope).await.0, 409);
    let (code, made) = ask(&rest, "POST", "/v1/scopes/sc/streams", stream("st")).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["tags"], json!(["a", "b"]));
    assert_eq!(made["scalingPolicy"], stream("st")["scalingPolicy"]);
    assert_eq!(made["retentionPolicy"], stream("st")["retentionPolicy"]);
    assert_eq!(
        ask(&rest, "POST", "/v1/scopes/sc/streams", stream("st"))
            .await
            .0,
        409
    );
    assert_eq!(
        ask(&rest, "POST", "/v1/scopes/no/streams", stream("st"))
            .await
            .0,
        404
    );
    assert_eq!(
        get(&rest, "/v1/scopes/sc/streams/st").await,
        (200, made.clone())
    );
    let listed = get(&rest, "/v1/scopes/sc/streams").await;
    assert_eq!(listed, (200, json!({"streams": [made]})));
    let internal = "/v1/scopes/sc/streams?filter_type=showInternalStreams&filter_value=true";
    assert_eq!(
        get(&rest, internal).await.1["streams"][0]["streamName"],
        "_MARKst"
    );
    for (tag, count) in [("a", 1), ("c", 0)] {
        let path = format!("/v1/scopes/sc/streams?filter_type=tag&filter_value={tag}");
        assert_eq!(
            get(&rest, &path).await.1["streams"]
                .as_array()
                .unwrap()
                .len(),
            count
        );
    }
    let mut update = stream("st");
    update["streamTags"] = json!(["c"]);
    let (code, updated) = ask(&rest, "PUT", "/v1/scopes/sc/streams/st", update).await;
    assert_eq!((code, &updated["tags"]), (200, &json!(["c"])));
    assert_eq!(
        ask(&rest, "DELETE", "/v1/scopes/sc/streams/st", Value::Null)
            .await
            .0,
        412
    );
    assert_eq!(
        ask(&rest, "DELETE", "/v1/scopes/sc", Value::Null).await.0,
        412
    );
    let sealed = json!({"streamState": "SEALED"});
    for _ in 0..2 {
        let state = ask(
            &rest,
            "PUT",
            "/v1/scopes/sc/streams/st/state",
            sealed.clone(),
        )
        .await;
        assert_eq!(state, (200, sealed.clone()));
    }
    assert_eq!(
        ask(&rest, "DELETE", "/v1/scopes/sc/streams/st", Value::Null)
            .await
            .0,
        204
    );
    assert_eq!(get(&rest, "/v1/scopes/sc/streams/st").await.0, 404);
    assert_eq!(
        ask(&rest, "DELETE", "/v1/scopes/sc", Value::Null).await.0,
        204
    );
    assert_eq!(get(&rest, "/v1/scopes/sc").await.0, 404);
}

#[tokio::test]
async fn scaling_events_begin_with_what_was_so_before() {
    let rest = rest().await;
    ask(&rest, "POST", "/v1/scopes", json!({"scopeName": "sc"})).await;
    ask(&rest, "POST", "/v1/scopes/sc/streams", stream("st")).await;
    let path = "/v1/scopes/sc/streams/st/scaling-events";
    for period in ["from=0&to=7000", "from=7000&to=7000", "from=8000&to=9000"] {
        let (code, list) = get(&rest, &format!("{path}?{period}")).await;
        assert_eq!(code, 200);
        let events = list["scalingEvents"].as_array().unwrap();
        assert_eq!(events.len(), 1, "{period}");
        assert_eq!(events[0]["timestamp"], 7000);
        assert_eq!(events[0]["segmentList"].as_array().unwrap().len(), 3);
    }
    assert_eq!(
        get(&rest, &format!("{path}?from=0&to=6999")).await.1["scalingEvents"],
        json!([])
    );
    for wrong in [
        "",
        "?from=1",
        "?from=2&to=1",
        "?from=-1&to=1",
        "?from=a&to=b",
    ] {
        assert_eq!(
            get(&rest, &format!("{path}{wrong}")).await.0,
            400,
            "{wrong}"
        );
    }
}

#[tokio::test]
async fn bad_input_is_answered_with_a_sentence() {
    let rest = rest().await;
    ask(&rest, "POST", "/v1/scopes", json!({"scopeName": "sc"})).await;
    for scope in [
        json!({}),
        json!(1),
        json!({"scopeName": "a/b"}),
        json!({"scopeName": "_x"}),
        json!({"scopeName": ""}),
        Value::Null,
    ] {
        let (code, answer) = ask(&rest, "POST", "/v1/scopes", scope.clone()).await;
        assert_eq!(code, 400, "{scope}");
        assert!(!answer["message"].as_str().unwrap().is_empty());
    }
    let wrong = |path: &str, value: Value| {
        let mut stream = stream("st");
        *stream.pointer_mut(path).unwrap() = value;
        stream
    };
    let streams = [
        wrong("/streamName", json!("_x")),
        wrong("/streamName", json!(7)),
        wrong("/scalingPolicy", Value::Null),
        wrong("/scalingPolicy/type", json!("OTHER")),
        wrong("/scalingPolicy/minSegments", json!(0)),
        wrong("/scalingPolicy/targetRate", json!(0)),
        wrong("/scalingPolicy/minSegments", json!(1_u64 << 40)),
        wrong("/retentionPolicy/value", json!(i64::MAX)),
        wrong("/retentionPolicy/value", json!(-1)),
        wrong(
            "/retentionPolicy/timeBasedRetention/minutes",
            json!(1_000_000_001),
        ),
        wrong("/streamTags", json!(["x".repeat(300)])),
    ];
    for stream in streams {
        let (code, answer) = ask(&rest, "POST", "/v1/scopes/sc/streams", stream.clone()).await;
        assert_eq!(code, 400, "{stream} {answer}");
    }
    for path in [
        "/v1/scopes/a%2Fb",
        "/v1/scopes/sc/streams?limit=0",
        "/v1/scopes/sc/streams?filter_type=x",
    ] {
        assert_eq!(get(&rest, path).await.0, 400, "{path}");
    }
    let large = json!({"scopeName": "x".repeat(BODY_BYTES_MAX)});
    assert_eq!(ask(&rest, "POST", "/v1/scopes", large).await.0, 413);
    assert_eq!(ask(&rest, "PATCH", "/v1/scopes", Value::Null).await.0, 405);
}

#[tokio::test]
async fn health_has_parts_and_aspects() {
    let rest = rest().await;
    let (code, whole) = get(&rest, "/v1/health").await;
    assert_eq!(
        (code, &whole["status"], &whole["liveness"]),
        (200, &json!("UP"), &json!(true))
    );
    assert_eq!(get(&rest, "/v1/health/readiness").await, (200, json!(true)));
    assert_eq!(
        get(&rest, "/v1/health/status/metadata").await,
        (200, json!("UP"))
    );
    assert_eq!(
        get(&rest, "/v1/health/metadata").await.1,
        whole["children"]["metadata"]
    );
    assert_eq!(get(&rest, "/v1/health/nothing").await.0, 404);
    assert_eq!(get(&rest, "/v1/health/nothing/metadata").await.0, 404);
}

#[tokio::test]
async fn every_route_is_described() {
    let document: Value = serde_json::from_str(OPENAPI).unwrap();
    let rest = rest().await;
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, _) in operations
            .as_object()
            .unwrap()
            .iter()
            .filter(|(key, _)| *key != "parameters")
        {
            let path = path
                .replace("{scopeName}", "sc")
                .replace("{id}", "metadata");
            let path = path
                .replace("{streamName}", "st")
                .replace("{readerGroupName}", "g");
            let (code, _) = ask(
                &rest,
                &method.to_uppercase(),
                &format!("/v1{path}"),
                Value::Null,
            )
            .await;
            assert_ne!(code, 405, "{method} {path}");
        }
    }
    assert_eq!(get(&rest, "/v1/openapi.json").await, (200, document));
}

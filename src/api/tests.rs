use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::control::tests::{Rig, SECRET, rig};
use crate::topology::Desired;

async fn start(rig: &Rig) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, Arc::clone(&rig.control)));
    address
}

/// One request on a connection of its own: status, header text and body.
async fn ask(to: SocketAddr, request: &str, token: Option<&str>, body: &str) -> (u16, String, Value) {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let authorization = token.map(|t| format!("Authorization: Bearer {t}\r\n")).unwrap_or_default();
    let length = body.len();
    let text = format!(
        "{request} HTTP/1.1\r\nHost: t\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n{authorization}\r\n{body}"
    );
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A refused body may be answered by a reset once the answer is out.
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_ascii_lowercase(), serde_json::from_str(body).unwrap_or(Value::String(body.to_owned())))
}

#[tokio::test]
async fn nothing_but_health_and_metrics_without_the_token() {
    let rig = rig();
    let to = start(&rig).await;
    for path in ["/live", "/metrics"] {
        assert_eq!(ask(to, &format!("GET {path}"), None, "").await.0, 200, "{path}");
    }
    let (status, _, body) = ask(to, "GET /ready", None, "").await;
    assert_eq!(status, 503, "no accounts are loaded here");
    assert_eq!((&body["ready"], &body["phase"]), (&json!(false), &json!("serving")), "{body}");
    assert!(body["reasons"][0].as_str().is_some_and(|r| r.contains("app")), "{body}");
    let wrong = format!("{SECRET}x");
    for token in [None, Some(""), Some("open"), Some(wrong.as_str())] {
        for request in ["GET /v1/nodes", "GET /v1/openapi.json", "POST /v1/reload", "GET /nowhere"] {
            let (status, head, _) = ask(to, request, token, "").await;
            assert_eq!(status, 401, "{request} with {token:?}");
            assert!(head.contains("www-authenticate: bearer"), "{head}");
        }
    }
}

#[tokio::test]
async fn every_list_is_there_under_its_name() {
    let rig = rig();
    let _session = rig.session();
    let to = start(&rig).await;
    for (path, key, rows) in [
        ("clusters", "clusters", 1),
        ("nodes", "nodes", 2),
        ("sessions", "sessions", 1),
        ("listeners", "listeners", 1),
    ] {
        let (status, _, body) = ask(to, &format!("GET /v1/{path}"), Some(SECRET), "").await;
        assert_eq!(status, 200);
        assert_eq!(body[key].as_array().map(Vec::len), Some(rows), "{body}");
    }
}

#[tokio::test]
async fn a_node_is_drained_and_a_session_killed() {
    let rig = rig();
    let session = rig.session();
    let to = start(&rig).await;
    let put = "PUT /v1/clusters/shop/nodes/db1/state";
    let (status, _, body) = ask(to, put, Some(SECRET), r#"{"state":"drain"}"#).await;
    assert_eq!(status, 200, "{body}");
    let topology = rig.control.topology.load();
    assert_eq!(topology.cluster("shop").unwrap().node("db1").unwrap().desired, Desired::Drain);
    let kill = format!("DELETE /v1/sessions/{}", session.entry.id.0);
    assert!((200..300).contains(&ask(to, &kill, Some(SECRET), "").await.0));
    tokio::time::timeout(Duration::from_secs(5), session.entry.ended()).await.unwrap();
}

#[tokio::test]
async fn what_is_wrong_has_its_status_and_its_reason() {
    let rig = rig();
    let to = start(&rig).await;
    let put = "PUT /v1/clusters/shop/nodes/db1/state";
    let huge = "x".repeat(MAX_BODY + 1);
    for (request, body, status, word) in [
        (put, r#"{"state":"off"}"#, 400, "enabled"),
        (put, r#"{"state":"drain","force":true}"#, 400, "force"),
        (put, "{", 400, ""),
        (put, r"{}", 400, "state"),
        ("PUT /v1/clusters/shop/nodes/db9/state", r#"{"state":"drain"}"#, 404, "db9"),
        ("PUT /v1/clusters/none/nodes/db1/state", r#"{"state":"drain"}"#, 404, "shop"),
        ("DELETE /v1/sessions/99", "", 404, "99"),
        ("GET /nowhere", "", 404, ""),
        ("DELETE /v1/nodes", "", 405, ""),
        ("POST /v1/reload", r#"{"what":"nothing"}"#, 400, "accounts"),
        (put, huge.as_str(), 413, ""),
    ] {
        let (got, _, answer) = ask(to, request, Some(SECRET), body).await;
        assert_eq!(got, status, "{request}: {answer}");
        let message = answer["error"]["message"].as_str().unwrap_or_default();
        assert!(!message.is_empty() && message.contains(word), "{request}: {answer}");
        assert!(answer["error"]["code"].is_string(), "{request}: {answer}");
    }
}

#[test]
fn the_document_lists_every_request() {
    let document = openapi::document(&offers());
    for operation in OPERATIONS {
        let Some(http) = operation.http else { continue };
        let method = http.method.as_str().to_ascii_lowercase();
        assert!(document["paths"][http.path][&method].is_object(), "{} {}", method, http.path);
    }
}

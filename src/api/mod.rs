//! The HTTP API. Its routes are the operations of [`control`](crate::control); bodies are JSON.
//!
//! Every request needs `Authorization: Bearer TOKEN`, but for three paths that orchestrators and scrapers read, which
//! often can not send one and which tell no address and no account: `/live`, `/ready` and `/metrics`.
//!
//! `GET /v1/openapi.json` describes everything.

mod connection;
mod failure;
mod openapi;
#[cfg(test)]
mod tests;

use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{ConnectInfo, DefaultBodyLimit, FromRequest, Query, RawPathParams, Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, get, on};
use axum::{Json, Router};
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};
use tracing::{error, warn};

use crate::control::operation::{Kind, Method};
use crate::control::{Caller, Control, Invocation, OPERATIONS, Operation, Right};
use crate::lifecycle::Phase;
use crate::metrics;
use connection::{Door, Limits, Peer};
use failure::Failure;

/// The largest body of a request in bytes.
const MAX_BODY: usize = 64 << 10;

/// How long a body may take to arrive.
const BODY_LIMIT: Duration = Duration::from_secs(10);

/// How long requests that are being answered may take when the process stops.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The paths that need no token.
const OPEN: &[&str] = &["/live", "/ready", "/metrics"];

const LIMITS: Limits =
    Limits { connections: 64, request: Duration::from_secs(30), write: Duration::from_secs(30) };

/// What one method of one path does: one operation, or several that the body selects from.
#[derive(Debug, Clone)]
struct Offer {
    method: Method,
    path: &'static str,
    operations: Vec<&'static Operation>,
}

/// Serves the API until the process stops.
pub async fn serve(listener: TcpListener, control: Arc<Control>) {
    serve_with(listener, control, LIMITS).await;
}

async fn serve_with(listener: TcpListener, control: Arc<Control>, limits: Limits) {
    let lifecycle = control.lifecycle.clone();
    let stopping = control.lifecycle.clone();
    let service = router(control).into_make_service_with_connect_info::<Peer>();
    let served = axum::serve(Door::new(listener, limits), service)
        .with_graceful_shutdown(async move { stopping.reached(Phase::Stopping).await })
        .into_future();
    let deadline = async {
        lifecycle.reached(Phase::Stopping).await;
        sleep(LAST_WORDS).await;
    };
    tokio::select! {
        ended = served => {
            if let Err(e) = ended {
                error!(error = %e, "the API has ended");
            }
        }
        () = deadline => {}
    }
}

/// The offers of the registry, each method of each path once, in the registry's order.
fn offers() -> Vec<Offer> {
    let mut offers: Vec<Offer> = Vec::new();
    for operation in OPERATIONS {
        let Some(http) = operation.http else { continue };
        match offers.iter_mut().find(|o| o.method == http.method && o.path == http.path) {
            Some(offer) => offer.operations.push(operation),
            None => offers.push(Offer { method: http.method, path: http.path, operations: vec![operation] }),
        }
    }
    offers
}

fn router(control: Arc<Control>) -> Router {
    let offers = offers();
    let document: Arc<Value> = Arc::new(openapi::document(&offers));
    let mut router = Router::new()
        .route("/live", get(|| async { Json(json!({ "live": true })) }))
        .route("/ready", get(ready))
        .route("/metrics", get(scrape))
        .route("/v1/openapi.json", get(move || async move { Json(Value::clone(&document)) }));
    for offer in offers {
        let filter = match offer.method {
            Method::Get => MethodFilter::GET,
            Method::Put => MethodFilter::PUT,
            Method::Post => MethodFilter::POST,
            Method::Delete => MethodFilter::DELETE,
        };
        let path = offer.path;
        let offer = Arc::new(offer);
        let handler = move |State(control): State<Arc<Control>>,
                            ConnectInfo(peer): ConnectInfo<Peer>,
                            parameters: RawPathParams,
                            query: Result<Query<Vec<(String, String)>>, QueryRejection>,
                            request: Request| {
            let offer = Arc::clone(&offer);
            async move {
                let from_path =
                    parameters.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
                let Query(query) = query.map_err(|e| Failure::bad_request(format!("query: {e}")))?;
                let body = read(request).await?;
                let wanted = invocation(&offer, from_path, query, &body)?;
                let caller = Caller { name: format!("api {}", peer.address), right: Right::Write };
                control.run(&caller, &wanted).await.map(Json).map_err(Failure::from)
            }
        };
        router = router.route(path, on(filter, handler));
    }
    router
        .fallback(|| async { Failure::no_such_path() })
        .method_not_allowed_fallback(|| async { Failure::no_such_method() })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(from_fn_with_state(Arc::clone(&control), gate))
        .with_state(control)
}

/// Lets a request pass with the right token, and without one where none is needed.
async fn gate(
    State(control): State<Arc<Control>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Request,
    next: Next,
) -> Response {
    let _under_way = peer.begin();
    if !OPEN.contains(&request.uri().path()) && !is_authorized(&control, request.headers()) {
        warn!(client = %peer.address, "API request without the right token");
        return Failure::unauthorized().into_response();
    }
    next.run(request).await
}

fn is_authorized(control: &Control, headers: &HeaderMap) -> bool {
    const SCHEME: &[u8] = b"Bearer ";
    let given = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default();
    given.len() > SCHEME.len()
        && given[..SCHEME.len()].eq_ignore_ascii_case(SCHEME)
        && control.is_api_token(&given[SCHEME.len()..])
}

async fn ready(State(control): State<Arc<Control>>) -> Response {
    let readiness = control.readiness();
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(readiness)).into_response()
}

async fn scrape(State(control): State<Arc<Control>>) -> Response {
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], control.metrics_text()).into_response()
}

/// The whole body.
async fn read(request: Request) -> Result<Bytes, Failure> {
    match timeout(BODY_LIMIT, Bytes::from_request(request, &())).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(e)) if e.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            let message = format!("the body is larger than {MAX_BODY} bytes");
            Err(Failure::Request(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message))
        }
        Ok(Err(e)) => Err(Failure::bad_request(format!("body: {e}"))),
        Err(_) => {
            let message = format!("the body did not arrive within {} seconds", BODY_LIMIT.as_secs());
            Err(Failure::Request(StatusCode::REQUEST_TIMEOUT, "timeout", message))
        }
    }
}

/// What the request wants, from its path, its query and its body.
fn invocation(
    offer: &Offer,
    mut values: Vec<(String, String)>,
    query: Vec<(String, String)>,
    body: &[u8],
) -> Result<Invocation, Failure> {
    let mut operation = offer.operations[0];
    if offer.method.has_body() {
        if let Some((name, _)) = query.first() {
            return Err(Failure::bad_request(format!(
                "unknown query parameter {name:?}; this request has a body"
            )));
        }
        let mut fields = fields(body)?;
        if operation.http.is_some_and(|http| http.selector.is_some()) {
            operation = select(offer, &mut fields)?;
        }
        for (name, value) in fields {
            match value {
                Value::String(text) => values.push((name, text)),
                // As good as left out.
                Value::Null => {}
                Value::Bool(wanted) if is_flag(operation, &name) => {
                    values.extend(wanted.then(|| (name, "true".to_owned())));
                }
                other => {
                    let known = operation.arguments.iter().find(|a| a.name == name);
                    let expected = known.map_or_else(|| "no such field".to_owned(), |a| a.kind.expected());
                    return Err(Failure::bad_request(format!(
                        "field {name:?}: expected {expected}, as a string; found {}",
                        sort(&other)
                    )));
                }
            }
        }
    } else if body.is_empty() {
        values.extend(query);
    } else {
        return Err(Failure::bad_request("this request takes no body"));
    }
    Ok(Invocation::new(operation, values)?)
}

fn fields(body: &[u8]) -> Result<Map<String, Value>, Failure> {
    if body.is_empty() {
        return Ok(Map::new());
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(other) => {
            Err(Failure::bad_request(format!("body: expected a JSON object; found {}", sort(&other))))
        }
        Err(e) => Err(Failure::bad_request(format!("body: not JSON: {e}"))),
    }
}

/// The operation that the body asks for; takes the field that says so.
fn select(offer: &Offer, fields: &mut Map<String, Value>) -> Result<&'static Operation, Failure> {
    let selectors = || offer.operations.iter().filter_map(|o| Some((*o, o.http?.selector?)));
    let field = selectors().map(|(_, (field, _))| field).next().unwrap_or_default();
    let given = fields.remove(field);
    let chosen = selectors().find(|(_, (_, word))| given.as_ref().and_then(Value::as_str) == Some(*word));
    chosen.map(|(operation, _)| operation).ok_or_else(|| {
        let words: Vec<&str> = selectors().map(|(_, (_, word))| word).collect();
        let what = given.map_or_else(|| "is missing".to_owned(), |value| format!("is wrong: {value}"));
        Failure::bad_request(format!("field {field:?} {what}; expected one of: {}", words.join(", ")))
    })
}

fn is_flag(operation: &Operation, name: &str) -> bool {
    operation.arguments.iter().any(|a| a.name == name && a.kind == Kind::Flag)
}

fn sort(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

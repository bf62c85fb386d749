//! The OpenAPI document, made from the registry of operations.

use serde_json::{Map, Value, json};

use super::Offer;
use crate::control::VERSION;
use crate::control::answer::{Cell, Column};
use crate::control::operation::{Argument, Http, Kind, Operation, Shape};

/// The document: every offer, and the paths that need no token.
pub(super) fn document(offers: &[Offer]) -> Value {
    let mut paths = Map::new();
    for offer in offers {
        let path = paths.entry(offer.path).or_insert_with(|| json!({}));
        path[offer.method.as_str().to_ascii_lowercase()] = described(offer);
    }
    for (path, summary, media) in [
        ("/live", "200 while the process runs", "application/json"),
        ("/ready", "200 while clients can be served, 503 otherwise, with the reasons", "application/json"),
        ("/metrics", "counters and states for Prometheus", crate::metrics::CONTENT_TYPE),
    ] {
        let mut responses = json!({ "200": { "description": summary, "content": { media: {} } } });
        if path == "/ready" {
            responses["503"] = json!({ "description": "clients can not be served" });
        }
        let described = json!({ "summary": summary, "security": [], "responses": responses });
        paths.insert(path.to_owned(), json!({ "get": described }));
    }
    json!({
        "openapi": "3.0.3",
        "info": { "title": "Spillway", "version": VERSION },
        "security": [{ "token": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
            "schemas": { "Error": error_schema() },
        },
    })
}

fn described(offer: &Offer) -> Value {
    let summaries: Vec<&str> = offer.operations.iter().map(|o| o.help).collect();
    let first = offer.operations[0];
    let mut described = json!({
        "operationId": first.words.join("_"),
        "summary": summaries.join("; or "),
        "responses": {
            "200": { "description": "done", "content": { "application/json": { "schema": result(first.result) } } },
            "default": {
                "description": "not done",
                "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Error" } } },
            },
        },
    });
    let parameters: Vec<Value> = offer.operations.iter().flat_map(|o| parameters(o)).collect();
    if !parameters.is_empty() {
        described["parameters"] = parameters.into();
    }
    if offer.method.has_body() {
        let mut bodies: Vec<Value> =
            offer.operations.iter().filter_map(|o| Some(body(o, &o.http?))).collect();
        let schema = if bodies.len() == 1 { bodies.remove(0) } else { json!({ "oneOf": bodies }) };
        described["requestBody"] =
            json!({ "required": true, "content": { "application/json": { "schema": schema } } });
    }
    described
}

fn parameters(operation: &Operation) -> Vec<Value> {
    let Some(http) = operation.http else { return Vec::new() };
    let parameter = |a: &Argument| {
        let place = if http.in_path(a) { "path" } else { "query" };
        json!({ "name": a.name, "in": place, "required": a.required, "description": a.help, "schema": value(a.kind) })
    };
    let outside_body = |a: &&Argument| http.in_path(a) || !http.method.has_body();
    operation.arguments.iter().filter(outside_body).map(parameter).collect()
}

fn body(operation: &Operation, http: &Http) -> Value {
    let (mut properties, mut required) = (Map::new(), Vec::new());
    if let Some((field, word)) = http.selector {
        properties.insert(field.to_owned(), json!({ "type": "string", "enum": [word] }));
        required.push(field);
    }
    for argument in operation.arguments.iter().filter(|a| !http.in_path(a)) {
        let mut schema = value(argument.kind);
        schema["description"] = argument.help.into();
        properties.insert(argument.name.to_owned(), schema);
        if argument.required {
            required.push(argument.name);
        }
    }
    let mut schema = json!({ "type": "object", "properties": properties, "additionalProperties": false });
    if !required.is_empty() {
        schema["required"] = required.into();
    }
    schema
}

fn value(kind: Kind) -> Value {
    match kind {
        Kind::Flag => json!({ "type": "boolean" }),
        Kind::Word(words) => json!({ "type": "string", "enum": words }),
        Kind::Session => json!({ "type": "integer", "format": "int64", "minimum": 0 }),
        Kind::Cluster | Kind::Node | Kind::Command | Kind::Text => json!({ "type": "string" }),
    }
}

fn result(shape: Shape) -> Value {
    match shape {
        Shape::List(key, columns) => {
            let list = json!({ "type": "array", "items": row(columns) });
            json!({ "type": "object", "properties": { key: list }, "required": [key] })
        }
        Shape::One(columns) => row(columns),
        Shape::Done => json!({
            "type": "object",
            "properties": {
                "result": { "type": "string" },
                "changes": { "type": "array", "items": { "type": "string" } },
            },
            "required": ["result", "changes"],
        }),
        Shape::Console => json!({}),
    }
}

fn row(columns: &[Column]) -> Value {
    let mut properties = Map::new();
    for column in columns {
        let mut schema = match column.cell {
            Cell::Text => json!({ "type": "string" }),
            Cell::MaybeText => json!({ "type": "string", "nullable": true }),
            Cell::Number | Cell::Seconds => json!({ "type": "integer", "format": "int64" }),
            Cell::MaybeSeconds => json!({ "type": "integer", "format": "int64", "nullable": true }),
            Cell::YesNo => json!({ "type": "boolean" }),
            Cell::Moment => json!({ "type": "string", "format": "date-time" }),
            Cell::Texts => json!({ "type": "array", "items": { "type": "string" } }),
        };
        schema["description"] = column.help.into();
        properties.insert(column.field.to_owned(), schema);
    }
    let required: Vec<&str> = columns.iter().map(|c| c.field).collect();
    json!({ "type": "object", "properties": properties, "required": required })
}

fn error_schema() -> Value {
    let text = json!({ "type": "string" });
    let error = json!({
        "type": "object",
        "properties": { "code": text, "message": text, "details": { "type": "array", "items": text } },
        "required": ["code", "message"],
    });
    json!({ "type": "object", "properties": { "error": error }, "required": ["error"] })
}

//! Errors of the API: a status code, and `{"error": {"code": …, "message": …}}` as the body.

use axum::Json;
use axum::http::header::WWW_AUTHENTICATE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;

use crate::control::{Code, OperationError};

/// A request that was not done.
#[derive(Debug)]
pub(super) enum Failure {
    /// The operation says why.
    Operation(OperationError),
    /// The request itself is not as it should be.
    Request(StatusCode, &'static str, String),
}

/// The body of an error.
#[derive(Debug, Serialize)]
struct Told<'a> {
    code: &'a str,
    message: &'a str,
}

impl Failure {
    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::Operation(OperationError::bad_request(message))
    }

    pub(super) fn unauthorized() -> Self {
        let message = "expected the header Authorization: Bearer TOKEN with the token of admin.token";
        Self::Request(StatusCode::UNAUTHORIZED, "unauthorized", message.to_owned())
    }

    pub(super) fn no_such_path() -> Self {
        let message = "no such path; GET /v1/openapi.json lists them";
        Self::Request(StatusCode::NOT_FOUND, "not_found", message.to_owned())
    }

    pub(super) fn no_such_method() -> Self {
        let message = "this path has no such method; the header Allow lists those it has";
        Self::Request(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message.to_owned())
    }
}

/// The status code of a refusal.
pub(super) fn status(code: Code) -> StatusCode {
    match code {
        Code::BadRequest => StatusCode::BAD_REQUEST,
        Code::Forbidden => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::Conflict => StatusCode::CONFLICT,
        Code::InvalidConfiguration => StatusCode::UNPROCESSABLE_ENTITY,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
    }
}

impl From<OperationError> for Failure {
    fn from(error: OperationError) -> Self {
        Self::Operation(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        match self {
            Self::Operation(error) => (status(error.code), Json(json!({ "error": error }))).into_response(),
            Self::Request(status, code, message) => {
                let told = Told { code, message: &message };
                let mut response = (status, Json(json!({ "error": told }))).into_response();
                if status == StatusCode::UNAUTHORIZED {
                    let challenge = HeaderValue::from_static("Bearer realm=\"spillway\"");
                    response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
                }
                response
            }
        }
    }
}

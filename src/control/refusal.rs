//! Why an operation was not done: a code for programs, a line for people.

use serde::Serialize;

/// The sort of a refusal. The API gives each its status code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The words or values are wrong; trying the same again fails again.
    BadRequest,
    /// The caller may not do this.
    Forbidden,
    /// There is no such cluster, node or session.
    NotFound,
    /// What is wanted can not be kept now.
    Conflict,
    /// The configuration file is wrong.
    InvalidConfiguration,
    /// What the operation needs did not answer; trying again may help.
    Unavailable,
}

/// An operation that was not done. Nothing has changed, unless the message says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{message}")]
pub struct OperationError {
    /// The sort.
    pub code: Code,
    /// What is wrong and what was expected, in one line.
    pub message: String,
    /// More lines, when there is more than one thing wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<String>,
}

impl OperationError {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: Vec::new() }
    }

    /// The words or values are wrong.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(Code::BadRequest, message)
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new(Code::NotFound, message)
    }

    /// One line for each thing that is wrong: the first line when there is no more than one.
    pub(super) fn with_details(mut self, details: Vec<String>) -> Self {
        self.details = details;
        self
    }
}

//! How a call can fail: the service said no, the machinery between failed, or the answer was odd.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use crate::Meta;

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The service answered with a problem document.
    #[error("{0}")]
    Problem(Box<Problem>),
    /// No complete answer arrived. `sent` says whether the request may have reached the node.
    #[error("{node} does not answer: {}", innermost(.source))]
    Transport { node: String, sent: bool, source: reqwest::Error },
    /// The answer, or the request, is not what it should be.
    #[error("{what} cannot be read: {source}")]
    Decode { what: String, source: serde_json::Error },
    /// An answer or one of its lines is larger than this client accepts.
    #[error("{what} is larger than {limit} bytes")]
    TooLarge { what: &'static str, limit: usize },
    /// The client was given something that cannot be used, such as a base URL that is none.
    #[error("{0}")]
    Setup(String),
}

/// What is known about a write that was answered with an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    NotApplied,
    /// It may stand. A retry with the same `Idempotency-Key` settles it.
    Unknown,
}

/// The problem document of an answer (RFC 9457 with skep's fields).
#[derive(Debug, Clone)]
pub struct Problem {
    pub status: u16,
    pub code: String,
    pub title: String,
    pub detail: String,
    pub retryable: bool,
    pub outcome: Outcome,
    pub retry_after: Option<Duration>,
    pub request_id: Option<String>,
    /// The node that served the request.
    pub node: Option<String>,
    pub errors: Vec<FieldError>,
    /// The whole document, for fields that only some codes have (`limit`, `remaining`, …).
    pub body: Value,
}

/// One mistake in a request.
#[derive(Debug, Clone, Deserialize)]
pub struct FieldError {
    #[serde(default)]
    pub pointer: String,
    #[serde(default)]
    pub detail: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = if self.detail.is_empty() { &self.title } else { &self.detail };
        write!(f, "{text} ({} {})", self.status, self.code)?;
        for error in &self.errors {
            write!(f, "; {}: {}", error.pointer, error.detail)?;
        }
        Ok(())
    }
}

impl ClientError {
    /// The problem document, if the service sent one.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            ClientError::Problem(problem) => Some(problem),
            ClientError::Transport { .. }
            | ClientError::Decode { .. }
            | ClientError::TooLarge { .. }
            | ClientError::Setup(_) => None,
        }
    }

    /// The HTTP status, if the service answered.
    pub fn status(&self) -> Option<u16> {
        self.problem().map(|problem| problem.status)
    }

    /// The problem code, if the service answered with one.
    pub fn code(&self) -> Option<&str> {
        self.problem().map(|problem| problem.code.as_str())
    }
}

impl Problem {
    pub(crate) fn read(meta: &Meta, retry_after_s: Option<u64>, body: &[u8]) -> Problem {
        let body = serde_json::from_slice(body).unwrap_or(Value::Null);
        let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        let exact = body["retry_after_ms"].as_u64().map(Duration::from_millis);
        let server_failed = meta.status >= 500;
        let not_applied = !server_failed || body["outcome"] == "not-applied";
        Problem {
            status: meta.status,
            code: text("code"),
            title: text("title"),
            detail: text("detail"),
            retryable: body["retryable"].as_bool().unwrap_or(false),
            outcome: if not_applied { Outcome::NotApplied } else { Outcome::Unknown },
            retry_after: exact.or_else(|| retry_after_s.map(Duration::from_secs)),
            request_id: meta.request_id.clone(),
            node: meta.node.clone(),
            errors: serde_json::from_value(body["errors"].clone()).unwrap_or_default(),
            body,
        }
    }
}

/// reqwest hides the reason ("connection refused") at the end of the chain.
fn innermost(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "timed out".to_owned();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

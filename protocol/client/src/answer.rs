//! What comes back: a body, and what the response headers say about who served and decided it.

use std::ops::Deref;

use reqwest::header::HeaderMap;
use serde::{Deserialize, Serialize};

/// What the headers of a response say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Meta {
    pub status: u16,
    pub request_id: Option<String>,
    /// The node that served the request (`Skep-Node`).
    pub node: Option<String>,
    /// The node that decided it (`Skep-Owner`); on a read of a job, the leader of its shard.
    pub owner: Option<String>,
    /// `shard:index` of the log entry of a write (`Skep-Index`).
    pub index: Option<String>,
    /// The answer is the first answer to the same `Idempotency-Key`, given again.
    pub replayed: bool,
    /// Whether all results of the job are in the body (`Skep-Complete`).
    pub complete: Option<bool>,
}

impl Meta {
    pub(crate) fn of(status: u16, headers: &HeaderMap) -> Meta {
        let text = |name: &str| headers.get(name)?.to_str().ok().map(str::to_owned);
        let flag = |name: &str| text(name).map(|value| value == "true");
        Meta {
            status,
            request_id: text("x-request-id"),
            node: text("skep-node"),
            owner: text("skep-owner"),
            index: text("skep-index"),
            replayed: flag("idempotent-replayed").unwrap_or(false),
            complete: flag("skep-complete"),
        }
    }
}

/// A body with its [`Meta`]; reads like the body.
#[derive(Debug, Clone)]
pub struct Answer<T> {
    pub body: T,
    pub meta: Meta,
}

impl<T> Answer<T> {
    /// The same answer with another body.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Answer<U> {
        Answer { body: change(self.body), meta: self.meta }
    }
}

impl<T> Deref for Answer<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.body
    }
}

/// One page of a list.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct List<T> {
    pub data: Vec<T>,
    #[serde(default)]
    pub has_more: bool,
    #[serde(default)]
    pub next_cursor: Option<String>,
}

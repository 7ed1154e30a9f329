//! One request before it is sent: what is asked, and whether asking twice is harmless.

use std::hash::{BuildHasher, Hasher, RandomState};

use bytes::Bytes;
pub use reqwest::Method;
use reqwest::Url;
use serde::Serialize;

use crate::ClientError;

/// One request, not yet sent to any node.
#[derive(Debug, Clone)]
pub struct Call {
    pub(crate) method: Method,
    segments: Vec<String>,
    query: Vec<(&'static str, String)>,
    pub(crate) body: Option<Bytes>,
    pub(crate) content_type: &'static str,
    pub(crate) accept: &'static str,
    pub(crate) idempotency_key: Option<String>,
    pub(crate) if_match: Option<String>,
    harmless: bool,
}

impl Call {
    /// A call of `path`, whose segments are split at `/` and escaped one by one.
    pub fn new(method: Method, path: &str) -> Call {
        let harmless = method == Method::GET || method == Method::HEAD;
        Call {
            method,
            segments: path.split('/').filter(|s| !s.is_empty()).map(str::to_owned).collect(),
            query: Vec::new(),
            body: None,
            content_type: "application/json",
            accept: "application/json",
            idempotency_key: None,
            if_match: None,
            harmless,
        }
    }

    pub fn get(path: &str) -> Call {
        Call::new(Method::GET, path)
    }

    pub fn post(path: &str) -> Call {
        Call::new(Method::POST, path)
    }

    pub fn put(path: &str) -> Call {
        Call::new(Method::PUT, path)
    }

    pub fn patch(path: &str) -> Call {
        Call::new(Method::PATCH, path)
    }

    pub fn delete(path: &str) -> Call {
        Call::new(Method::DELETE, path)
    }

    /// Adds one path segment, escaped: an id that holds `/` or `?` stays one segment.
    pub fn segment(mut self, segment: impl Into<String>) -> Call {
        self.segments.push(segment.into());
        self
    }

    /// Adds a query parameter when there is a value.
    pub fn query(mut self, name: &'static str, value: Option<impl ToString>) -> Call {
        self.query.extend(value.map(|value| (name, value.to_string())));
        self
    }

    pub fn json(mut self, body: &impl Serialize) -> Result<Call, ClientError> {
        let bytes = serde_json::to_vec(body)
            .map_err(|source| ClientError::Decode { what: "the request".to_owned(), source })?;
        self.body = Some(Bytes::from(bytes));
        Ok(self)
    }

    /// A body that is not JSON.
    pub fn body(mut self, media_type: &'static str, bytes: Bytes) -> Call {
        self.content_type = media_type;
        self.body = Some(bytes);
        self
    }

    pub fn accept(mut self, media_type: &'static str) -> Call {
        self.accept = media_type;
        self
    }

    /// Makes the write repeatable: the cluster answers a repetition with the first answer.
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Call {
        self.idempotency_key = Some(key.into());
        self
    }

    /// Only if the thing still has this entity tag.
    pub fn if_match(mut self, tag: impl Into<String>) -> Call {
        self.if_match = Some(tag.into());
        self
    }

    /// Says that doing this write twice changes nothing that matters.
    pub fn harmless(mut self) -> Call {
        self.harmless = true;
        self
    }

    pub(crate) fn may_be_repeated(&self) -> bool {
        self.harmless || self.idempotency_key.is_some()
    }

    pub(crate) fn url(&self, base: &Url) -> Url {
        let mut url = base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(&self.segments);
        }
        if !self.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&self.query);
        }
        url
    }
}

/// An `Idempotency-Key` that no other call has.
pub fn fresh_key() -> String {
    // Each RandomState is keyed afresh from the operating system's randomness; two make 128 bits.
    let word = || RandomState::new().build_hasher().finish();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let millis = now.map_or(0, |since| since.as_millis());
    format!("{millis:012x}-{:016x}{:016x}", word(), word())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_with_a_slash_stays_one_segment_and_a_prefix_is_kept() {
        let base = Url::parse("http://h:1/redline/").unwrap();
        let call = Call::get("/v1/jobs").segment("a/b?c").query("limit", Some(3));
        assert_eq!(call.url(&base).as_str(), "http://h:1/redline/v1/jobs/a%2Fb%3Fc?limit=3");
    }

    #[test]
    fn a_write_is_repeatable_only_with_a_key() {
        assert!(Call::get("/v1/me").may_be_repeated());
        assert!(!Call::post("/v1/scan").may_be_repeated());
        assert!(Call::post("/v1/scan").idempotency_key(fresh_key()).may_be_repeated());
        assert_ne!(fresh_key(), fresh_key());
    }
}

//! The one place where a failure becomes a status and a body.
//!
//! A handler returns [`Problem`]; it travels as a response extension until the context layer, which
//! knows path and request id, renders it. Invariants: a rendered body without a report is below
//! [`BODY_BYTES_MAX`];
//! `outcome` is present exactly on 5xx; every 401 and every 404 has the same body.

mod code;

use axum::body::Body;
use axum::http::header::{CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use protocol::wire::error as wire;
pub use protocol::wire::error::{Mistake, Outcome};

pub use self::code::{Code, Meaning};
use super::app::{IDEMPOTENT_REPLAYED, Untold};
use super::headers::Served;
use super::limits::Tightest;

/// Media type of every error.
pub const PROBLEM_JSON: &str = "application/problem+json";
/// Mistakes listed in one answer.
pub const MISTAKES_MAX: usize = 20;
/// Size that a rendered problem stays below.
pub const BODY_BYTES_MAX: usize = 4096;
/// Waiting time told to the caller of a 503 when nobody knows a better one.
const RETRY_AFTER_MS_DEFAULT: u64 = 1000;
const DETAIL_CHARS_MAX: usize = 300;
const POINTER_CHARS_MAX: usize = 120;
const INSTANCE_CHARS_MAX: usize = 256;

/// A failure on its way to the client.
#[derive(Debug, Clone)]
pub struct Problem {
    code: Code,
    // Boxed because it is the error side of every handler's result.
    more: Box<More>,
}

#[derive(Debug, Clone, Default)]
struct More {
    detail: Option<String>,
    outcome: Option<Outcome>,
    mistakes: Vec<Mistake>,
    size: Option<(u64, u64)>,
    /// An entry of the log tells of it, so nobody else has to.
    committed: bool,
    /// The audit is to tell of it also when it is a 5xx.
    untold: bool,
    /// It is the answer of an earlier request under the same Idempotency-Key.
    replayed: bool,
    limit: Option<Limited>,
    retry_after_ms: Option<u64>,
    served: Option<Served>,
    close: bool,
    report: Option<serde_json::Value>,
}

/// What a 429 says about the limit that was met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limited {
    /// Name of the policy, e.g. `per_month`.
    pub policy: String,
    /// The limit itself.
    pub limit: u64,
    /// What is left of it.
    pub remaining: u64,
    /// Seconds until it is whole again.
    pub reset_s: u64,
    /// After this long a client that is alone is admitted.
    pub retry_after_ms: u64,
}

impl Limited {
    fn announce(&self, headers: &mut HeaderMap) {
        let Self { policy, limit, remaining, reset_s, .. } = self;
        let (limit, remaining, reset_s) = (*limit, *remaining, *reset_s);
        let window = match policy.as_str() {
            "rate" | "key_rate" => ";w=1",
            "per_minute" => ";w=60",
            "per_day" => ";w=86400",
            _ => "",
        };
        let policies = format!("\"{policy}\";q={limit}{window}");
        Tightest { policy, limit, remaining, reset_s }.insert(headers, &policies);
    }
}

impl Problem {
    /// A problem that says no more than its code.
    pub fn new(code: Code) -> Self {
        let more = More { outcome: code.meaning().outcome, ..More::default() };
        Self { code, more: Box::new(more) }
    }

    /// 401, the same for every reason, so that nobody learns which keys exist.
    pub fn unauthenticated() -> Self {
        Self::new(Code::Unauthenticated)
    }

    /// 404, the same for foreign, missing and unreadable ids.
    pub fn not_found() -> Self {
        Self::new(Code::NotFound)
    }

    /// 400 with a reason.
    pub fn malformed(detail: impl Into<String>) -> Self {
        Self::new(Code::Malformed).detail(detail)
    }

    /// 400 for mistakes in query or headers.
    pub fn bad_request(mistakes: Vec<Mistake>) -> Self {
        Self::listing(Code::Malformed, mistakes)
    }

    /// 422 for mistakes in the body.
    pub fn validation(mistakes: Vec<Mistake>) -> Self {
        Self::listing(Code::Validation, mistakes)
    }

    /// 422 for one mistake that only the domain could see.
    pub fn invalid(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::validation(vec![Mistake { pointer: pointer.into(), detail: detail.into() }])
    }

    /// 413 with both figures.
    pub fn too_large(limit: u64, got: u64) -> Self {
        let mut problem = Self::new(Code::TooLarge);
        problem.more.size = Some((limit, got));
        problem
    }

    /// 403 that names the scope.
    pub fn scope_missing(scope: impl std::fmt::Display) -> Self {
        Self::new(Code::ScopeMissing).detail(format!("the key lacks the scope {scope}"))
    }

    /// One of the four 429s. The detail is made here because the word "quota" may appear for
    /// [`Code::QuotaExceeded`] and nowhere else.
    pub fn limited(code: Code, limited: Limited) -> Self {
        let mut problem = Self::new(code);
        let title = code.meaning().title;
        let Limited { policy, limit, remaining, .. } = &limited;
        problem.more.detail = Some(format!("{title}: {policy} has {remaining} of {limit} left"));
        problem.more.limit = Some(limited);
        problem
    }

    /// What happened this time. Has no effect on 401 and 404, whose bodies never differ.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        if !self.tells_nothing() {
            self.more.detail = Some(detail.into());
        }
        self
    }

    /// Changes what a 429 says of its limit.
    #[must_use]
    pub fn limit(mut self, change: impl FnOnce(&mut Limited)) -> Self {
        if let Some(limited) = &mut self.more.limit {
            change(limited);
        }
        self
    }

    /// What is known about the effect; ignored for a 4xx, which is never applied.
    #[must_use]
    pub fn outcome(mut self, outcome: Outcome) -> Self {
        if self.code.meaning().outcome.is_some() {
            self.more.outcome = Some(outcome);
        }
        self
    }

    /// What is known about the effect of a call that answers 5xx.
    pub fn known_outcome(&self) -> Option<Outcome> {
        self.more.outcome
    }

    /// How long to wait, in milliseconds; the header is its ceiling in seconds.
    #[must_use]
    pub fn retry_after_ms(mut self, wait: u64) -> Self {
        self.more.retry_after_ms = Some(wait);
        self
    }

    /// Who decided, when a node other than ours did. Has no effect on 401 and 404: an id that nobody
    /// can read has no owner, and must look like one that is missing.
    #[must_use]
    pub fn served(mut self, served: Served) -> Self {
        if !self.tells_nothing() {
            self.more.served = Some(served);
        }
        self
    }

    /// Notes that an entry of the log holds this refusal.
    pub fn committed(mut self) -> Self {
        self.more.committed = true;
        self
    }

    /// Notes that no entry can tell of this call, whatever became of it, unless one has.
    pub fn untold(mut self) -> Self {
        self.more.untold = !self.more.committed;
        self
    }

    /// Marks the answer of an earlier request under the same Idempotency-Key.
    pub fn replayed(mut self, replayed: bool) -> Self {
        self.more.replayed = replayed;
        self
    }

    /// Adds what the node says of itself, where the caller asked for that.
    #[must_use]
    pub fn report(mut self, report: Option<serde_json::Value>) -> Self {
        self.more.report = report;
        self
    }

    fn tells_nothing(&self) -> bool {
        matches!(self.code, Code::Unauthenticated | Code::NotFound)
    }

    /// Ends the connection after the answer: the rest of the request was not read.
    #[must_use]
    pub fn closing(mut self) -> Self {
        self.more.close = true;
        self
    }

    /// The code, e.g. for the log.
    pub fn code(&self) -> Code {
        self.code
    }

    fn listing(code: Code, mistakes: Vec<Mistake>) -> Self {
        let mut problem = Self::new(code);
        if let [only] = mistakes.as_slice() {
            problem.more.detail = Some(format!("{}: {}", only.pointer, only.detail));
        }
        problem.more.mistakes = mistakes;
        problem
    }

    fn wait_ms(&self) -> Option<u64> {
        let by_limit = self.more.limit.as_ref().map(|limit| limit.retry_after_ms);
        let unavailable = self.code.meaning().status == StatusCode::SERVICE_UNAVAILABLE;
        let by_status = unavailable.then_some(RETRY_AFTER_MS_DEFAULT);
        self.more.retry_after_ms.or(by_limit).or(by_status)
    }

    fn body(&self, instance: &str, request_id: &str) -> wire::Problem {
        let meaning = self.code.meaning();
        let (limit, size) = (self.more.limit.as_ref(), self.more.size);
        let size_limit = size.map(|(limit, _)| limit);
        wire::Problem {
            kind: format!("/problems/{}", meaning.name),
            title: meaning.title.to_owned(),
            status: meaning.status.as_u16(),
            detail: shorten(self.more.detail.as_deref().unwrap_or(meaning.title), DETAIL_CHARS_MAX),
            instance: shorten(instance, INSTANCE_CHARS_MAX),
            code: meaning.name.to_owned(),
            request_id: request_id.to_owned(),
            retryable: meaning.retryable,
            outcome: self.more.outcome,
            errors: self.more.mistakes.iter().take(MISTAKES_MAX).map(shorten_mistake).collect(),
            policy: limit.map(|limit| shorten(&limit.policy, POINTER_CHARS_MAX)),
            limit: limit.map(|limit| limit.limit).or(size_limit),
            got: size.map(|(_, got)| got),
            remaining: limit.map(|limit| limit.remaining),
            reset_s: limit.map(|limit| limit.reset_s),
            retry_after_ms: self.wait_ms(),
        }
    }

    /// The JSON of this problem. Mistakes are dropped from the end until it fits.
    pub fn render(&self, instance: &str, request_id: &str) -> Vec<u8> {
        let mut body = self.body(instance, request_id);
        loop {
            // A struct of strings and integers always serializes; an empty body beats a panic.
            let bytes = serde_json::to_vec(&body).unwrap_or_default();
            if bytes.len() < BODY_BYTES_MAX || body.errors.pop().is_none() {
                return self.with_report(&body, bytes);
            }
        }
    }

    fn with_report(&self, body: &wire::Problem, bytes: Vec<u8>) -> Vec<u8> {
        #[derive(serde::Serialize)]
        struct Reported<'a> {
            #[serde(flatten)]
            body: &'a wire::Problem,
            report: &'a serde_json::Value,
        }
        match &self.more.report {
            Some(report) => serde_json::to_vec(&Reported { body, report }).unwrap_or(bytes),
            None => bytes,
        }
    }

    /// The finished response for a request whose path and id are known.
    pub fn respond(self, instance: &str, request_id: &str) -> Response {
        let mut response = Response::new(Body::from(self.render(instance, request_id)));
        *response.status_mut() = self.code.meaning().status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if let Some(wait) = self.wait_ms() {
            headers.insert(RETRY_AFTER, HeaderValue::from(wait.div_ceil(1000)));
        }
        if let Some(limited) = &self.more.limit {
            limited.announce(headers);
        }
        if self.code == Code::Unauthenticated {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.more.close {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if self.more.replayed {
            headers.insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
        }
        if self.more.committed {
            response.extensions_mut().insert(Committed);
        }
        if self.more.untold {
            response.extensions_mut().insert(Untold);
        }
        if let Some(served) = self.more.served {
            response.extensions_mut().insert(served);
        }
        response
    }
}

/// In the extensions of a response that tells of a committed refusal.
#[derive(Debug, Clone, Copy)]
pub struct Committed;

impl From<Code> for Problem {
    fn from(code: Code) -> Self {
        Self::new(code)
    }
}

impl IntoResponse for Problem {
    /// Only marks the response: the context layer calls [`Problem::respond`].
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.code.meaning().status;
        response.extensions_mut().insert(self);
        response
    }
}

/// The page behind `type`, for people and offline.
pub fn page(code: Code) -> serde_json::Value {
    let meaning = code.meaning();
    serde_json::json!({
        "code": meaning.name,
        "status": meaning.status.as_u16(),
        "title": meaning.title,
        "retryable": meaning.retryable,
        "advice": meaning.advice,
    })
}

fn shorten_mistake(mistake: &Mistake) -> Mistake {
    Mistake {
        pointer: shorten(&mistake.pointer, POINTER_CHARS_MAX),
        detail: shorten(&mistake.detail, DETAIL_CHARS_MAX),
    }
}

fn shorten(text: &str, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(problem: &Problem) -> serde_json::Value {
        serde_json::from_slice(&problem.render("/v1/me", "req_1")).unwrap()
    }

    #[test]
    fn every_code_is_listed_once_and_has_an_outcome_exactly_on_5xx() {
        for code in Code::ALL {
            let meaning = code.meaning();
            assert_eq!(Code::parse(meaning.name), Some(code));
            assert_eq!(meaning.outcome.is_some(), meaning.status.as_u16() >= 500, "{code:?}");
            let body = json(&Problem::new(code));
            assert_eq!(body["type"], format!("/problems/{}", meaning.name));
            assert_eq!(body["status"], meaning.status.as_u16());
            assert_eq!(body.get("outcome").is_some(), meaning.status.as_u16() >= 500);
        }
    }

    #[test]
    fn the_word_quota_is_said_for_quota_exceeded_only() {
        for code in Code::ALL {
            let limited = Limited {
                policy: "per_day".to_owned(),
                limit: 9,
                remaining: 0,
                reset_s: 7,
                retry_after_ms: 6001,
            };
            let body = json(&Problem::limited(code, limited));
            let says_quota = body["detail"].as_str().unwrap().contains("quota");
            assert_eq!(says_quota, code == Code::QuotaExceeded, "{body}");
        }
    }

    #[test]
    fn retry_after_is_the_ceiling_in_seconds() {
        let response = Problem::new(Code::NoLeader).retry_after_ms(1001).respond("/", "req_1");
        assert_eq!(response.headers()[RETRY_AFTER], "2");
        let response = Problem::new(Code::Draining).respond("/", "req_1");
        assert_eq!(response.headers()[RETRY_AFTER], "1");
    }

    #[test]
    fn a_body_stays_below_its_limit() {
        let nasty = "\u{1}".repeat(5000);
        let mistakes = vec![Mistake { pointer: nasty.clone(), detail: nasty.clone() }; 40];
        let bytes = Problem::validation(mistakes).render(&nasty, "req_1");
        assert!(bytes.len() < BODY_BYTES_MAX, "{} bytes", bytes.len());
        let bytes = Problem::malformed(nasty.clone()).render(&nasty, "req_1");
        assert!(bytes.len() < BODY_BYTES_MAX, "{} bytes", bytes.len());
    }

    #[test]
    fn a_401_and_a_404_never_say_why() {
        let plain = Problem::unauthenticated().render("/", "r");
        assert_eq!(Problem::new(Code::Unauthenticated).detail("revoked").render("/", "r"), plain);
        let plain = Problem::not_found().render("/", "r");
        assert_eq!(Problem::new(Code::NotFound).detail("job_1").render("/", "r"), plain);
    }
}

//! Every reason for which a call can fail, and what it means on the wire: one exhaustive match.

use axum::http::StatusCode;
use protocol::wire::error::Outcome;

/// Stable, machine-readable reason of a problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// 400: the request cannot be read, or its query or headers are wrong.
    Malformed,
    /// 401: no credential that counts.
    Unauthenticated,
    /// 402: the plan lacks it.
    PlanLimit,
    /// 403: the key may not do this.
    ScopeMissing,
    /// 403: the tenant is suspended.
    TenantSuspended,
    /// 403: the trial is over.
    TrialExpired,
    /// 404: no such thing, or not the caller's.
    NotFound,
    /// 405: the path exists, the method does not.
    MethodNotAllowed,
    /// 408: the client stopped sending.
    RequestTimeout,
    /// 409: the state forbids it.
    Conflict,
    /// 409: a call with this Idempotency-Key still runs.
    IdempotencyInProgress,
    /// 410: it was there.
    Gone,
    /// 412: `If-Match` names another version.
    PreconditionFailed,
    /// 413: over a size limit.
    TooLarge,
    /// 415: not a media type, charset or encoding we read.
    UnsupportedMediaType,
    /// 422: the body is readable and wrong.
    Validation,
    /// 422: the Idempotency-Key was used for something else.
    IdempotencyMismatch,
    /// 428: `If-Match` is required here.
    PreconditionRequired,
    /// 429: too fast.
    RateLimited,
    /// 429: the period's allowance is used up.
    QuotaExceeded,
    /// 429: too many at the same time.
    ConcurrencyExceeded,
    /// 429: too much is waiting already.
    QueueFull,
    /// 431: the head is too long or has too many fields.
    HeaderTooLarge,
    /// 500: a defect of ours.
    Internal,
    /// 503: the owner is being elected.
    NoLeader,
    /// 503: too few nodes to decide.
    NoQuorum,
    /// 503: no room for more work right now.
    Overloaded,
    /// 503: this node is being emptied.
    Draining,
    /// 503: this node is starting.
    NotReady,
    /// 504: no answer in time.
    Deadline,
    /// 507: no room to write.
    DiskFull,
}

/// What a [`Code`] says on the wire.
#[derive(Debug, Clone, Copy)]
pub struct Meaning {
    /// The word in `code` and in `/problems/{code}`.
    pub name: &'static str,
    /// HTTP status.
    pub status: StatusCode,
    /// Title, and the detail where the caller gives none.
    pub title: &'static str,
    /// Whether the same request may succeed later.
    pub retryable: bool,
    /// Outcome unless the caller knows better; some exactly for 5xx.
    pub outcome: Option<Outcome>,
    /// What the reader of `/problems/{code}` can do.
    pub advice: &'static str,
}

impl Code {
    /// All of them, in the order of their status.
    pub const ALL: [Self; 31] = [
        Self::Malformed,
        Self::Unauthenticated,
        Self::PlanLimit,
        Self::ScopeMissing,
        Self::TenantSuspended,
        Self::TrialExpired,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::RequestTimeout,
        Self::Conflict,
        Self::IdempotencyInProgress,
        Self::Gone,
        Self::PreconditionFailed,
        Self::TooLarge,
        Self::UnsupportedMediaType,
        Self::Validation,
        Self::IdempotencyMismatch,
        Self::PreconditionRequired,
        Self::RateLimited,
        Self::QuotaExceeded,
        Self::ConcurrencyExceeded,
        Self::QueueFull,
        Self::HeaderTooLarge,
        Self::Internal,
        Self::NoLeader,
        Self::NoQuorum,
        Self::Overloaded,
        Self::Draining,
        Self::NotReady,
        Self::Deadline,
        Self::DiskFull,
    ];

    /// The code with this name, if there is one.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.meaning().name == name)
    }

    /// The code of a status that something else than us chose.
    pub fn of_status(status: StatusCode) -> Self {
        match status.as_u16() {
            401 => Self::Unauthenticated,
            402 => Self::PlanLimit,
            403 => Self::ScopeMissing,
            404 => Self::NotFound,
            405 => Self::MethodNotAllowed,
            408 => Self::RequestTimeout,
            409 => Self::Conflict,
            410 => Self::Gone,
            412 => Self::PreconditionFailed,
            413 => Self::TooLarge,
            415 => Self::UnsupportedMediaType,
            422 => Self::Validation,
            428 => Self::PreconditionRequired,
            429 => Self::RateLimited,
            414 | 431 => Self::HeaderTooLarge,
            503 => Self::Overloaded,
            504 => Self::Deadline,
            507 => Self::DiskFull,
            code if code < 500 => Self::Malformed,
            _ => Self::Internal,
        }
    }

    /// What it says on the wire. Long because it is the table; it holds no logic.
    #[rustfmt::skip]
    pub const fn meaning(self) -> Meaning {
        const NOT: Option<Outcome> = Some(Outcome::NotApplied);
        const UNKNOWN: Option<Outcome> = Some(Outcome::Unknown);
        match self {
            Self::Malformed => row("malformed", 400, "malformed request", false, None,
                "The request cannot be read, or its query or headers are wrong. `errors` names each mistake. Correct it; repeating it unchanged fails again."),
            Self::Unauthenticated => row("unauthenticated", 401, "a valid credential is required", false, None,
                "Send `Authorization: Bearer KEY` or `X-API-Key: KEY` with a key that exists, is not revoked and not expired."),
            Self::PlanLimit => row("plan_limit", 402, "the plan does not include this", false, None,
                "The feature, model, retention or money budget is not part of the tenant's plan. Ask an operator for another plan."),
            Self::ScopeMissing => row("scope_missing", 403, "the key lacks the scope for this", false, None,
                "Use a key with the scope that `detail` names."),
            Self::TenantSuspended => row("tenant_suspended", 403, "the tenant is suspended", false, None,
                "An operator suspended this tenant. Its jobs wait and go on when it is resumed."),
            Self::TrialExpired => row("trial_expired", 403, "the trial has ended", false, None,
                "Choose a plan to go on; nothing was deleted."),
            Self::NotFound => row("not_found", 404, "no such resource", false, None,
                "The path or the id does not exist, or it belongs to somebody else; the answer is the same."),
            Self::MethodNotAllowed => row("method_not_allowed", 405, "the method is not allowed here", false, None,
                "The header `Allow` lists the methods of this path."),
            Self::RequestTimeout => row("request_timeout", 408, "the request did not arrive in time", true, None,
                "The body came too slowly or not at all. Nothing was applied; send it again."),
            Self::Conflict => row("conflict", 409, "the state does not allow this", false, None,
                "Read the resource; its state is not the one that this call needs."),
            Self::IdempotencyInProgress => row("idempotency_in_progress", 409, "a call with this Idempotency-Key is still running", true, None,
                "Wait and repeat the same call with the same key to get its answer."),
            Self::Gone => row("gone", 410, "this no longer exists", false, None,
                "It existed and was removed for good."),
            Self::PreconditionFailed => row("precondition_failed", 412, "the resource has changed", false, None,
                "`If-Match` names another version. Read it again and decide."),
            Self::TooLarge => row("too_large", 413, "the request is too large", false, None,
                "`limit` is what is allowed and `got` what was sent. Send less at once."),
            Self::UnsupportedMediaType => row("unsupported_media_type", 415, "the media type is not supported", false, None,
                "Send `Content-Type: application/json` in UTF-8 without Content-Encoding."),
            Self::Validation => row("validation", 422, "the request is not valid", false, None,
                "`errors` has a JSON pointer and a reason for each mistake, at most 20."),
            Self::IdempotencyMismatch => row("idempotency_mismatch", 422, "the Idempotency-Key was used for another request", false, None,
                "A key belongs to one method, path, query and body for 24 hours. Use a new one."),
            Self::PreconditionRequired => row("precondition_required", 428, "If-Match is required", false, None,
                "Send `If-Match` with the ETag that you read."),
            Self::RateLimited => row("rate_limited", 429, "too many requests", true, None,
                "Wait `retry_after_ms`; a client that is alone is admitted then."),
            Self::QuotaExceeded => row("quota_exceeded", 429, "the quota is used up", true, None,
                "The allowance of the period is spent. It is whole again after `reset_s` seconds."),
            Self::ConcurrencyExceeded => row("concurrency_exceeded", 429, "too many requests at the same time", true, None,
                "Wait until one of yours has ended."),
            Self::QueueFull => row("queue_full", 429, "too much work is waiting", true, None,
                "Wait until some of your queued documents are done, or cancel a job."),
            Self::HeaderTooLarge => row("header_too_large", 431, "the request head is too large", false, None,
                "Send fewer and shorter header fields or a shorter path."),
            Self::Internal => row("internal", 500, "internal error", false, UNKNOWN,
                "A defect of the server. Report `request_id`. A write may have been applied; repeat it only with its Idempotency-Key."),
            Self::NoLeader => row("no_leader", 503, "the owner is being elected", true, NOT,
                "Repeat after `Retry-After`; an election takes a few seconds."),
            Self::NoQuorum => row("no_quorum", 503, "too few nodes are reachable to decide", true, UNKNOWN,
                "Repeat with the same Idempotency-Key when a majority of the nodes is back."),
            Self::Overloaded => row("overloaded", 503, "no capacity at the moment", true, NOT,
                "Repeat after `Retry-After` and send less at once."),
            Self::Draining => row("draining", 503, "this node is draining", true, NOT,
                "Repeat on another node."),
            Self::NotReady => row("not_ready", 503, "this node is not ready", true, NOT,
                "Repeat after `Retry-After`, or on another node."),
            Self::Deadline => row("deadline", 504, "no answer in time", true, UNKNOWN,
                "The call may still be applied. Repeat it with the same Idempotency-Key to learn its answer."),
            Self::DiskFull => row("disk_full", 507, "no room to store this", true, NOT,
                "The node refuses writes until an operator makes room; reads go on."),
        }
    }
}

const fn row(
    name: &'static str,
    status: u16,
    title: &'static str,
    retryable: bool,
    outcome: Option<Outcome>,
    advice: &'static str,
) -> Meaning {
    // `from_u16` cannot fail for the table above; the fallback keeps this const and panic-free.
    let status = match StatusCode::from_u16(status) {
        Ok(status) => status,
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Meaning { name, status, title, retryable, outcome, advice }
}

//! Reads a request body within its bounds: bytes, pace, and memory over all requests together.
//!
//! Invariant: a body that `Content-Length` already shows to be too large is refused before a byte of
//! it is read, so that `100 Continue` is never sent for it.

use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

use super::error::{Code, Problem};

/// Largest body of a route that says nothing else.
pub const BODY_BYTES_MAX: usize = 1 << 20;
/// Largest body of scan and jobs.
pub const DOCUMENTS_BODY_BYTES_MAX: usize = 64 << 20;
/// Memory of all bodies that are being read or held; beyond it a request is refused with 503.
pub const BUFFERED_BYTES_MAX: usize = 512 << 20;
/// A body that brings less than [`PACE_BYTES_MIN`] in this time is given up.
pub const PACE_WINDOW: Duration = Duration::from_secs(30);
/// 1 kB/s.
pub const PACE_BYTES_MIN: usize = 30 * 1000;
/// Step in which room is reserved while a body of unknown length grows.
const STEP_BYTES: usize = 64 << 10;

/// What is set aside for a body that is announced, as a multiple of what has come of it.
const GROWTH: usize = 4;

static ROOM: Semaphore = Semaphore::const_new(BUFFERED_BYTES_MAX / STEP_BYTES);

/// A whole body and the room that it takes until this is dropped.
#[derive(Debug)]
pub struct Whole {
    /// Its bytes.
    pub bytes: Bytes,
    /// Keeps the bytes counted while somebody works on them.
    pub room: Room,
}

/// A share of [`BUFFERED_BYTES_MAX`].
#[derive(Debug, Default)]
pub struct Room {
    permits: Vec<SemaphorePermit<'static>>,
    steps: usize,
}

impl Room {
    fn grow_to(&mut self, bytes: usize) -> Result<(), Problem> {
        // The first step is free: small bodies are bounded by the number of connections.
        let missing = (bytes / STEP_BYTES).saturating_sub(self.steps);
        let missing = u32::try_from(missing).unwrap_or(u32::MAX);
        if missing > 0 {
            let full = |_full| Problem::new(Code::Overloaded).closing();
            self.permits.push(ROOM.try_acquire_many(missing).map_err(full)?);
            self.steps += missing as usize;
        }
        Ok(())
    }
}

/// Refuses by the head alone: an encoding that we do not undo, or a length over the limit.
pub fn check_head(headers: &HeaderMap, bytes_max: usize) -> Result<(), Problem> {
    let identity =
        |value: &axum::http::HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
    if !headers.get_all(CONTENT_ENCODING).iter().all(identity) {
        let detail = "no Content-Encoding but identity is accepted";
        return Err(Problem::new(Code::UnsupportedMediaType).detail(detail).closing());
    }
    match announced(headers) {
        Some(length) if length > bytes_max as u64 => {
            Err(Problem::too_large(bytes_max as u64, length).closing())
        }
        _ => Ok(()),
    }
}

/// Reads all of it, or says 408, 413, 503, or 400 when the client broke it off.
pub async fn read(headers: &HeaderMap, body: Body, bytes_max: usize) -> Result<Whole, Problem> {
    read_at_pace(headers, body, bytes_max, PACE_WINDOW).await
}

/// The same, with another [`PACE_WINDOW`].
pub(super) async fn read_at_pace(
    headers: &HeaderMap,
    body: Body,
    bytes_max: usize,
    window: Duration,
) -> Result<Whole, Problem> {
    check_head(headers, bytes_max)?;
    let announced = announced(headers).map_or(0, |length| length as usize);
    let mut room = Room::default();
    // Announcing much and sending nothing must cost neither memory nor room.
    let mut buffer = BytesMut::with_capacity(announced.min(STEP_BYTES));
    let mut pace = Pace::begin(window);
    let mut body = body;
    while let Some(data) = next_data(&mut body, &mut pace).await? {
        let got = buffer.len() + data.len();
        if got > bytes_max {
            return Err(Problem::too_large(bytes_max as u64, got as u64).closing());
        }
        room.grow_to(got)?;
        if got > buffer.capacity() {
            // To grow is to copy, so it is by much, but never far beyond what has come.
            buffer.reserve(announced.clamp(got, got * GROWTH) - buffer.len());
        }
        buffer.extend_from_slice(&data);
    }
    Ok(Whole { bytes: buffer.freeze(), room })
}

/// A body that is taken piece by piece, within the same bounds.
pub struct Pieces {
    body: Body,
    pace: Pace,
    got: usize,
    bytes_max: usize,
}

impl Pieces {
    /// Refuses by the head what [`read`] would refuse.
    pub fn begin(headers: &HeaderMap, body: Body, bytes_max: usize) -> Result<Self, Problem> {
        check_head(headers, bytes_max)?;
        Ok(Self { body, pace: Pace::begin(PACE_WINDOW), got: 0, bytes_max })
    }

    /// The next piece; `None` after the last.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        let piece = next_data(&mut self.body, &mut self.pace).await?;
        self.got += piece.as_ref().map_or(0, Bytes::len);
        if self.got > self.bytes_max {
            return Err(Problem::too_large(self.bytes_max as u64, self.got as u64).closing());
        }
        Ok(piece)
    }
}

impl std::fmt::Debug for Pieces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of at most {} bytes", self.got, self.bytes_max)
    }
}

async fn next_data(body: &mut Body, pace: &mut Pace) -> Result<Option<Bytes>, Problem> {
    loop {
        let frame = loop {
            match timeout_at(pace.deadline(), body.frame()).await {
                Ok(frame) => break frame,
                Err(_elapsed) => pace.next_window()?,
            }
        };
        let Some(frame) = frame else { return Ok(None) };
        let broken = |_cause| Problem::malformed("the body broke off or is not framed").closing();
        // Trailers are read and mean nothing to us.
        if let Ok(data) = frame.map_err(broken)?.into_data() {
            pace.bytes += data.len();
            return Ok(Some(data));
        }
    }
}

/// Bytes per window. Only waiting counts: data that is there already is never too slow.
struct Pace {
    window: Duration,
    window_ends: Instant,
    bytes: usize,
}

impl Pace {
    fn begin(window: Duration) -> Self {
        Self { window, window_ends: Instant::now() + window, bytes: 0 }
    }

    fn deadline(&self) -> Instant {
        self.window_ends
    }

    fn next_window(&mut self) -> Result<(), Problem> {
        if self.bytes < PACE_BYTES_MIN {
            let detail = "the body came slower than 1 kB/s for 30 s";
            return Err(Problem::new(Code::RequestTimeout).detail(detail).closing());
        }
        *self = Self::begin(self.window);
        Ok(())
    }
}

fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

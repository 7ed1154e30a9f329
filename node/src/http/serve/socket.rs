//! The socket as the HTTP parser sees it: only framed bytes come in, and an error that the parser
//! itself answers goes out as problem+json.
//!
//! Also keeps the clocks that hyper has not: ten seconds for a head from its first byte, an idle time
//! between requests that is longer than that, and a time without progress while writing.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, timeout};

use super::Limits;
use super::framing::{Framer, Step};
use super::lane::Lane;
use crate::http::error::Code;

/// Bytes read at once.
const READ_BYTES: usize = 16 << 10;
/// Not a request in any reading: makes the parser answer and close in its usual way.
const POISON: &[u8] = b"?\r\n\r\n";

/// What the service tells the socket.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// A request is being answered.
    pub(super) busy: AtomicBool,
    /// The connection is to end; nothing is answered beside the parser any more.
    pub(super) stopping: AtomicBool,
}

/// Makes the answer to bytes that are no request; gets hyper's own head.
pub(super) type Refuse = Arc<dyn Fn(Code, &[u8]) -> Vec<u8> + Send + Sync>;

pub(super) struct Socket {
    stream: TcpStream,
    limits: Limits,
    shared: Arc<Shared>,
    refuse: Refuse,
    framer: Framer,
    received: BytesMut,
    /// How much of `received` may be parsed.
    passable: usize,
    refused: Option<Code>,
    ended: bool,
    requests: u64,
    reading: Clock,
    writing: Clock,
    outgoing: BytesMut,
    lane: Option<Lane>,
    /// The parser has words that the socket did not take yet; nobody may speak before they are out.
    stalled: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    Head,
    Idle,
    Progress,
}

/// One deadline at a time.
struct Clock {
    waiting: Option<Wait>,
    sleep: Pin<Box<Sleep>>,
}

impl Clock {
    fn new() -> Self {
        Self { waiting: None, sleep: Box::pin(tokio::time::sleep_until(Instant::now())) }
    }

    /// Whether the time for `wait` is up; it begins when the kind of waiting changes.
    fn expired(&mut self, wait: Wait, limits: &Limits, cx: &mut Context<'_>) -> bool {
        if self.waiting != Some(wait) {
            let time = match wait {
                Wait::Head => limits.head_time,
                Wait::Idle => limits.idle_time,
                Wait::Progress => limits.write_time,
            };
            self.sleep.as_mut().reset(Instant::now() + time);
            self.waiting = Some(wait);
        }
        self.sleep.as_mut().poll(cx).is_ready()
    }
}

impl Socket {
    pub(super) fn new(
        stream: TcpStream,
        limits: Limits,
        shared: Arc<Shared>,
        refuse: Refuse,
        lane: Option<Lane>,
    ) -> Self {
        Self {
            stream,
            limits,
            shared,
            refuse,
            framer: Framer::new(),
            received: BytesMut::new(),
            passable: 0,
            refused: None,
            ended: false,
            requests: 0,
            reading: Clock::new(),
            writing: Clock::new(),
            outgoing: BytesMut::new(),
            lane,
            stalled: false,
        }
    }

    /// Answers the request whose head was just framed, if the lane takes it; the parser never sees it.
    fn overtake(&mut self, head: usize) -> bool {
        let idle = || !self.stalled && !self.shared.busy.load(Ordering::Acquire);
        let open = || !self.shared.stopping.load(Ordering::Acquire);
        let Some(lane) = self.lane.as_ref().filter(|_| idle() && open()) else { return false };
        let Some(length) = Lane::body_of(&self.received[..head]) else { return false };
        let end = head + length;
        if self.received.len() < end {
            return false;
        }
        let (before, body) = self.received[..end].split_at(head);
        if !lane.answer(before, body, &mut self.outgoing) {
            return false;
        }
        self.received.advance(head);
        // Its body is framed like any other, and passed over.
        if length > 0 {
            let body = self.framer.step(&self.received[..length]);
            debug_assert_eq!(body, Step::Pass(length));
            self.received.advance(length);
        }
        true
    }

    /// Ends the connection so that the client can still read our last words: closing a socket with
    /// unread bytes resets it, and a reset destroys what was sent before.
    pub(super) async fn close(mut self) {
        let unread = self.refused.is_some() || !self.framer.in_head() || !self.received.is_empty();
        let linger = self.limits.linger_time;
        let farewell = async {
            self.flush().await?;
            tokio::io::AsyncWriteExt::shutdown(&mut self.stream).await?;
            let mut scrap = vec![0; READ_BYTES];
            while unread && !self.ended && self.stream.read(&mut scrap).await? > 0 {}
            Ok::<(), io::Error>(())
        };
        // Whatever fails here, the client has gone.
        let _ = timeout(linger, farewell).await;
    }

    /// Moves bytes that belong to a request to the parser.
    fn pass(&mut self, buffer: &mut ReadBuf<'_>) -> bool {
        let part = self.passable.min(buffer.remaining());
        buffer.put_slice(&self.received[..part]);
        self.received.advance(part);
        self.passable -= part;
        part > 0
    }

    fn refuse(&mut self, code: Code, buffer: &mut ReadBuf<'_>) {
        self.refused = Some(code);
        self.received.clear();
        let part = POISON.len().min(buffer.remaining());
        buffer.put_slice(&POISON[..part]);
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut scratch = [std::mem::MaybeUninit::uninit(); READ_BYTES];
        let mut scratch = ReadBuf::uninit(&mut scratch);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut scratch))?;
        self.received.extend_from_slice(scratch.filled());
        Poll::Ready(Ok(scratch.filled().len()))
    }

    /// What a reader without bytes is waiting for, if that may take only so long.
    fn wait(&self) -> Option<Wait> {
        if !self.framer.in_head() || self.shared.busy.load(Ordering::Acquire) {
            return None;
        }
        let idle = self.received.is_empty() && self.requests > 0;
        Some(if idle { Wait::Idle } else { Wait::Head })
    }

    /// hyper's own answer to a broken request, recognised by what ours never lack.
    fn own_words(&self, bytes: &[u8]) -> Option<usize> {
        if self.shared.busy.load(Ordering::Acquire) || !bytes.ends_with(b"\r\n\r\n") {
            return None;
        }
        let at = bytes.windows(10).rposition(|window| window == b"HTTP/1.1 4")?;
        let head = bytes[at..].to_ascii_lowercase();
        let has = |name: &[u8]| head.windows(name.len()).any(|window| window == name);
        (!has(b"x-request-id") && has(b"content-length: 0")).then_some(at)
    }

    fn replace(&mut self, bytes: &[u8], at: usize) {
        let too_large =
            bytes[at..].starts_with(b"HTTP/1.1 431") || bytes[at..].starts_with(b"HTTP/1.1 414");
        let by_status = if too_large { Code::HeaderTooLarge } else { Code::Malformed };
        let code = *self.refused.get_or_insert(by_status);
        self.outgoing.extend_from_slice(&bytes[..at]);
        self.outgoing.extend_from_slice(&(self.refuse)(code, &bytes[at..]));
    }

    fn poll_outgoing(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.is_empty() {
            let wrote = Pin::new(&mut self.stream).poll_write(cx, &self.outgoing);
            match ready!(self.progress(wrote, cx))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.outgoing.advance(count),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Ends a write that makes no progress.
    fn progress<T>(
        &mut self,
        wrote: Poll<io::Result<T>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if wrote.is_ready() {
            self.writing.waiting = None;
            return wrote;
        }
        if self.writing.expired(Wait::Progress, &self.limits, cx) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Pending
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        // What the lane has answered goes out before anything else is read.
        ready!(this.poll_outgoing(cx))?;
        loop {
            if this.pass(buffer) || this.ended || this.refused.is_some() {
                return Poll::Ready(Ok(()));
            }
            let head = this.framer.in_head();
            match this.framer.step(&this.received) {
                Step::Pass(count) => {
                    this.requests += u64::from(head);
                    this.reading.waiting = None;
                    if head && this.overtake(count) {
                        ready!(this.poll_outgoing(cx))?;
                    } else {
                        this.passable = count;
                    }
                    continue;
                }
                Step::Skip(count) => {
                    this.received.advance(count);
                    continue;
                }
                Step::Refuse(code) => {
                    this.refuse(code, buffer);
                    return Poll::Ready(Ok(()));
                }
                Step::End => return Poll::Ready(Ok(())),
                Step::More => {}
            }
            match this.poll_receive(cx) {
                Poll::Ready(Ok(0)) => this.ended = true,
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(cause)) => return Poll::Ready(Err(cause)),
                Poll::Pending => {
                    let Some(wait) = this.wait() else {
                        this.reading.waiting = None;
                        return Poll::Pending;
                    };
                    if !this.reading.expired(wait, &this.limits, cx) {
                        return Poll::Pending;
                    }
                    if this.received.is_empty() {
                        this.ended = true;
                    } else {
                        this.refuse(Code::RequestTimeout, buffer);
                    }
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_outgoing(cx))?;
        if let Some(at) = self.own_words(bytes) {
            self.replace(bytes, at);
            return Poll::Ready(Ok(bytes.len()));
        }
        let wrote = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.stalled = true;
        self.progress(wrote, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let first = slices.iter().find(|slice| !slice.is_empty());
        if let Some(first) = first.filter(|first| self.own_words(first).is_some()) {
            return self.poll_write(cx, first);
        }
        ready!(self.poll_outgoing(cx))?;
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.stalled = true;
        self.progress(wrote, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_outgoing(cx))?;
        // The parser flushes when it has nothing left to write.
        self.stalled = false;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

//! Logs. Everything of INFO and above goes to `DIR/log/skep.log`, rotated by size and readable by the
//! owner only; stderr carries WARN and above.
//!
//! Lines are written by a thread of their own, so that a slow disk never holds an executor thread.
//! When the thread falls behind by [`LINES_MAX`], lines are dropped and counted, not queued.

mod file;

use std::io;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::{FilterExt as _, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};
use tracing_subscriber::{EnvFilter, Layer as _, fmt};

use self::file::LogFile;

/// Lines that wait for the disk.
const LINES_MAX: usize = 16 * 1024;
const LOG_NAME: &str = "skep.log";
/// Bytes that are written at once.
const WRITE_BYTES: usize = 64 << 10;
/// After a write, in which lines gather: each would wake the thread and be a write of its own otherwise.
const GATHER: Duration = Duration::from_millis(2);

/// Where lines go that are made without `tracing`: its way costs more than a tenth of a cached scan.
static LINES: OnceLock<SyncSender<Message>> = OnceLock::new();

/// How lines of the file look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// One JSON object per line.
    #[default]
    Json,
    /// For reading with the eye.
    Pretty,
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be made.
    #[error("log file {path}: {cause}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// `SKEP_LOG` or the setting cannot be read.
    #[error("log filter: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// Somebody else installed a subscriber.
    #[error("a log is open already")]
    Installed(#[from] TryInitError),
}

/// Writes what is left when it is dropped. Keep it until the end of `main`.
#[derive(Debug)]
pub struct Guard {
    lines: SyncSender<Message>,
    writer: Option<JoinHandle<()>>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        // A writer that has ended has nothing left to write.
        let _ = self.lines.send(Message::Stop);
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

enum Message {
    Line(Vec<u8>),
    Stop,
}

/// Installs the log of a node. `filter` as in `RUST_LOG`, e.g. `info,raft=debug`; `ractor` and
/// `ractor_cluster` stay at INFO whatever it says, because their DEBUG prints message contents.
pub fn start(data: &Path, format: Format, filter: &str) -> Result<Guard, Error> {
    let directory = data.join("log");
    let path = directory.join(LOG_NAME);
    let file = LogFile::open(&directory, LOG_NAME);
    let file = file.map_err(|cause| Error::File { path: path.clone(), cause })?;
    let (lines, received) = sync_channel(LINES_MAX);
    let thread = std::thread::Builder::new().name("log".to_owned());
    let writer = thread.spawn(move || write(file, &received));
    let writer = writer.map_err(|cause| Error::File { path, cause })?;

    let sink = Sink(lines.clone());
    let allowed = EnvFilter::try_new(filter)?.and(filter_fn(discreet));
    let file_layer = match format {
        Format::Json => fmt::layer().json().flatten_event(true).with_writer(sink).boxed(),
        Format::Pretty => fmt::layer().with_ansi(false).with_writer(sink).boxed(),
    };
    let stderr = fmt::layer().with_ansi(false).with_writer(io::stderr).compact();
    tracing_subscriber::registry()
        .with(file_layer.with_filter(allowed))
        .with(stderr.with_filter(LevelFilter::WARN).with_filter(filter_fn(ours)))
        .try_init()?;
    if format == Format::Json {
        // A second start would have failed above.
        let _ = LINES.set(lines.clone());
    }
    Ok(Guard { lines, writer: Some(writer) })
}

/// Writes an INFO line of JSON of `target`: `fields` adds what follows `"message":"…"`, each field with a
/// comma before it, and sees to it that it is JSON. `false` where the log has another form, or none is
/// open: then the line goes through `tracing`. The caller has asked whether the line is wanted.
pub fn line(target: &str, message: &str, fields: impl FnOnce(&mut Vec<u8>)) -> bool {
    let Some(lines) = LINES.get() else { return false };
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let at = protocol::Time(since.as_millis() as u64).to_string();
    let (at, micros) = (at.trim_end_matches('Z'), since.subsec_micros() % 1000);
    let mut line = Vec::with_capacity(384);
    // A Vec takes whatever is written into it.
    let _ =
        write!(line, r#"{{"timestamp":"{at}{micros:03}Z","level":"INFO","message":"{message}""#);
    fields(&mut line);
    let _ = writeln!(line, r#","target":"{target}"}}"#);
    send(lines, line);
    true
}

/// The filter in force: `SKEP_LOG`, else `RUST_LOG`, else the setting.
pub fn filter_from_environment(setting: &str) -> String {
    let set = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
    set("SKEP_LOG").or_else(|| set("RUST_LOG")).unwrap_or_else(|| setting.to_owned())
}

fn discreet(metadata: &Metadata<'_>) -> bool {
    // `Level` orders by verbosity: INFO is less than DEBUG.
    !metadata.target().starts_with("ractor") || *metadata.level() <= Level::INFO
}

/// openraft warns of each message that a changed vote made void, and `ractor_cluster` of each session
/// that ends; every start has some of both, and what matters of them is logged by us.
fn ours(metadata: &Metadata<'_>) -> bool {
    let theirs = ["openraft", "ractor"].iter().any(|name| metadata.target().starts_with(name));
    !theirs || *metadata.level() <= Level::ERROR
}

fn write(mut file: LogFile, received: &Receiver<Message>) {
    let mut together = Vec::new();
    while let Ok(message) = received.recv() {
        let mut next = Some(message);
        while let Some(message) = next {
            match message {
                Message::Line(line) => together.extend_from_slice(&line),
                Message::Stop => return file.write(&together),
            }
            next = if together.len() < WRITE_BYTES { received.try_recv().ok() } else { None };
        }
        file.write(&together);
        together.clear();
        std::thread::park_timeout(GATHER);
    }
}

fn send(lines: &SyncSender<Message>, line: Vec<u8>) {
    if let Err(TrySendError::Full(lost) | TrySendError::Disconnected(lost)) =
        lines.try_send(Message::Line(line))
        && let Message::Line(line) = lost
    {
        file::note_dropped(&line);
    }
}

struct Sink(SyncSender<Message>);

/// Collects the pieces of one line; sends it when the formatter is done with it.
struct Line<'s> {
    lines: &'s SyncSender<Message>,
    bytes: Vec<u8>,
}

impl<'s> MakeWriter<'s> for Sink {
    type Writer = Line<'s>;

    fn make_writer(&'s self) -> Line<'s> {
        Line { lines: &self.0, bytes: Vec::with_capacity(256) }
    }
}

impl io::Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        send(self.lines, std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ractor_never_says_more_than_info() {
        let (lines, received) = sync_channel(100);
        let allowed = EnvFilter::new("trace,ractor_cluster::node=trace").and(filter_fn(discreet));
        let layer = fmt::layer().json().with_writer(Sink(lines)).with_filter(allowed);
        let guard = tracing_subscriber::registry().with(layer).set_default();
        tracing::debug!(target: "ractor_cluster::node", "cookie");
        tracing::debug!(target: "ractor", "message");
        tracing::info!(target: "ractor", "actor started");
        tracing::debug!(target: "raft", text = "a\nb\u{1b}[31m", "applied");
        drop(guard);
        let lines: Vec<_> = received
            .try_iter()
            .map(|message| match message {
                Message::Line(line) => String::from_utf8(line).unwrap(),
                Message::Stop => String::new(),
            })
            .collect();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].contains("actor started"));
        assert_eq!(lines[1].matches('\n').count(), 1, "one line: {}", lines[1]);
        assert!(!lines[1].contains('\u{1b}'));
    }
}

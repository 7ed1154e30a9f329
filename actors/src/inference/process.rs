//! A model in a process of its own, from the node's side. A batch gets an answer, or the process is ended
//! and the reason told: nothing that a model does reaches the node.

use std::ffi::OsString;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::EngineChoice;
use super::frame::{self, Load, Loaded, Scores};

/// How long a version may take to load and warm.
const LOAD_TIMEOUT: Duration = Duration::from_secs(60);
/// How long what a process said last may take to come.
const LAST_WORD: Duration = Duration::from_millis(500);
/// Characters of what a process said last that a reason has.
const LAST_WORD_CHARS: usize = 160;

/// How the processes of a node are run.
#[derive(Clone, Debug)]
pub struct Launch {
    /// What is run, with its arguments: this program, told to be one.
    pub command: Vec<OsString>,
    pub engine: EngineChoice,
    pub library: Option<PathBuf>,
    /// How long a batch may take.
    pub batch_limit: Duration,
    /// Memory of a batch beside that of the model.
    pub batch_bytes: u64,
}

/// Why a batch has no scores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The process lives and says why.
    Refused(String),
    /// The process is gone.
    Ended(String),
}

/// A process that has a version loaded and warm.
#[derive(Debug)]
pub struct Process {
    child: Child,
    socket: UnixStream,
    batch_limit: Duration,
    engine: (String, String),
    bytes: u64,
}

impl Process {
    /// Starts a process and waits until the bundle in `dir` is warm. Blocks.
    pub fn start(launch: &Launch, dir: &Path) -> Result<Self, String> {
        let failed = |error: io::Error| format!("no process for the model: {error}");
        let (socket, theirs) = UnixStream::pair().map_err(failed)?;
        // A process that is stopped reads nothing, which is as bad as saying nothing.
        socket.set_write_timeout(Some(launch.batch_limit)).map_err(failed)?;
        let (program, arguments) = launch.command.split_first().ok_or("no command to run")?;
        let child = Command::new(program)
            .args(arguments)
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .env_remove("SKEP_KEY")
            // Memory counts when it is used and not when it is set aside: the limit is on what counts.
            .env("MIMALLOC_ARENA_EAGER_COMMIT", "0")
            // What a terminal sends to the node's group is for the node, which ends its processes.
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let engine = (String::new(), String::new());
        let batch_limit = launch.batch_limit;
        let mut process = Self { child, socket, batch_limit, engine, bytes: 0 };
        let load = Load {
            dir: dir.to_string_lossy().into_owned(),
            engine: launch.engine,
            library: launch.library.as_ref().map(|path| path.to_string_lossy().into_owned()),
            batch_bytes: launch.batch_bytes,
        };
        let sent = frame::write(&mut process.socket, &load);
        match sent.and_then(|()| process.answer(LOAD_TIMEOUT)) {
            Ok(Loaded::Ready { engine, engine_version, bytes }) => {
                process.engine = (engine, engine_version);
                process.bytes = bytes;
                Ok(process)
            }
            Ok(Loaded::Refused(why)) => Err(why),
            Err(error) => Err(process.end(&error, LOAD_TIMEOUT)),
        }
    }

    /// Engine and its version.
    #[must_use]
    pub fn engine(&self) -> (&str, &str) {
        (&self.engine.0, &self.engine.1)
    }

    /// Memory that it has when it does nothing.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The vectors of texts. Blocks, for the limit of a batch at most.
    pub fn score(&mut self, texts: &[&str]) -> Result<Vec<Vec<f32>>, Broken> {
        let sent = frame::write(&mut self.socket, &texts);
        match sent.and_then(|()| self.answer::<Scores>(self.batch_limit)) {
            Ok(Ok(scores)) if scores.len() == texts.len() => Ok(scores),
            Ok(Ok(_)) => Err(Broken::Refused("scores of other documents".to_owned())),
            Ok(Err(why)) => Err(Broken::Refused(why)),
            Err(error) => Err(Broken::Ended(self.end(&error, self.batch_limit))),
        }
    }

    fn answer<T: serde::de::DeserializeOwned>(&mut self, limit: Duration) -> io::Result<T> {
        frame::read(&mut Timed { socket: &self.socket, until: Instant::now() + limit })
    }

    /// Ends the process and says what became of it.
    fn end(&mut self, error: &io::Error, limit: Duration) -> String {
        let late = matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock);
        if late {
            self.kill();
            return format!("hung the model: no answer in {} s", limit.as_secs());
        }
        let until = Instant::now() + LAST_WORD;
        let said = self.last_word(until);
        self.kill();
        let ended = match self.child.wait() {
            Ok(status) => match status.signal() {
                Some(signal) => format!("by signal {signal}"),
                None => format!("with {}", status.code().unwrap_or_default()),
            },
            Err(error) => error.to_string(),
        };
        match said.as_str() {
            "" => format!("ended the model {ended}"),
            said => format!("ended the model {ended}: {said}"),
        }
    }

    /// The last line on stderr of a process whose socket is closed. It has ended or is about to.
    fn last_word(&mut self, until: Instant) -> String {
        while Instant::now() < until {
            match self.child.try_wait() {
                Ok(Some(_)) | Err(_) => break,
                Ok(None) => pause(),
            }
        }
        self.kill();
        let mut said = Vec::new();
        if let Some(stderr) = self.child.stderr.take() {
            // Everything of it is in the pipe: nobody can write any more.
            let _ = stderr.take(64 << 10).read_to_end(&mut said);
        }
        let said = String::from_utf8_lossy(&said);
        let line = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
        line.trim().chars().take(LAST_WORD_CHARS).collect()
    }

    fn kill(&mut self) {
        // One that has ended by itself cannot be killed and need not be.
        let _ = self.child.kill();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        // Reaped, so that no zombie stays; a killed process ends at once.
        let _ = self.child.wait();
    }
}

#[allow(clippy::disallowed_methods, reason = "a slot's own thread waits for a process that ends")]
fn pause() {
    std::thread::sleep(Duration::from_millis(2));
}

/// Reads until a moment, whatever comes in between.
struct Timed<'s> {
    socket: &'s UnixStream,
    until: Instant,
}

impl io::Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.socket.set_read_timeout(Some(left))?;
        let mut socket = self.socket;
        socket.read(buffer)
    }
}

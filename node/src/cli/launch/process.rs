//! One node as a process of the operating system, spawned here or found running.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, test_kill_process, waitpid};
use tokio::process::Command;
use tokio::sync::watch;

use super::poll::{Probe, until};
use super::{LaunchError, settings};

/// What a refusal or a panic prints fits well.
const STDERR_TAIL: usize = 2_000;

/// A node process. Dropping the handle leaves the process alone.
#[derive(Debug)]
pub struct Process {
    pid: Pid,
    data: PathBuf,
    stderr: PathBuf,
    /// Where to see how it ended; `None` when it is not our child.
    exit: Option<watch::Receiver<Option<ExitStatus>>>,
}

impl Process {
    /// Starts `command` with its output going to the file `stderr`.
    pub(super) fn spawn(
        command: &[String],
        variables: &[(String, String)],
        data: &Path,
        stderr: &Path,
        own_group: bool,
    ) -> Result<Process, LaunchError> {
        let log = OpenOptions::new().create(true).append(true).mode(0o600).open(stderr);
        let log = log.map_err(|source| LaunchError::file("cannot write", stderr, source))?;
        let (binary, arguments) = command.split_first().ok_or_else(no_command)?;
        let failed = |source| LaunchError::Spawn { binary: binary.into(), source };
        let mut child = Command::new(binary);
        child.args(arguments).stdin(Stdio::null());
        child.stdout(Stdio::from(log.try_clone().map_err(failed)?)).stderr(Stdio::from(log));
        for name in settings::of_the_command_line() {
            child.env_remove(name);
        }
        child.envs(variables.iter().map(|(name, value)| (name, value)));
        if own_group {
            // A ^C at the terminal must reach the launcher only, which stops its nodes in order.
            child.process_group(0);
        }
        let mut child = child.spawn().map_err(failed)?;
        let raw = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let pid = raw.ok_or_else(|| failed(io::Error::other("it ended at once")))?;
        let (ended, exit) = watch::channel(None);
        tokio::spawn(async move {
            if let Ok(status) = child.wait().await {
                ended.send_replace(Some(status));
            }
        });
        Ok(Process { pid, data: data.to_owned(), stderr: stderr.to_owned(), exit: Some(exit) })
    }

    /// The process that serves `data`, if one runs (seen through `/proc`).
    pub(super) fn find(data: &Path, stderr: &Path) -> Option<Process> {
        let entries = fs::read_dir("/proc").ok()?;
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let pid = pids.filter_map(Pid::from_raw).find(|pid| serves(*pid, data))?;
        Some(Process { pid, data: data.to_owned(), stderr: stderr.to_owned(), exit: None })
    }

    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    pub fn is_alive(&self) -> bool {
        match &self.exit {
            Some(exit) => exit.borrow().is_none(),
            None => test_kill_process(self.pid).is_ok() && serves(self.pid, &self.data),
        }
    }

    /// How it ended, when it has ended and was our child.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        self.exit.as_ref().and_then(|exit| *exit.borrow())
    }

    /// SIGKILL: the process gets no chance to tidy up.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
    }

    /// SIGSTOP: the process is there and does nothing until it is thawed.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT after [`Self::freeze`].
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Blocks until a killed child is gone; for `Drop`, which cannot await.
    pub(super) fn reap(&self) {
        if self.exit.is_some() && self.is_alive() {
            // The runtime may have reaped it first, which is just as good.
            let _ = waitpid(Some(self.pid), WaitOptions::empty());
        }
    }

    /// SIGTERM, a bounded wait, then SIGKILL. Gives the exit status of a child.
    pub async fn stop(&self, grace: Duration) -> Result<Option<ExitStatus>, LaunchError> {
        self.signal(Signal::TERM);
        if self.gone(grace).await.is_err() {
            self.kill();
            self.gone(grace).await?;
        }
        Ok(self.exit_status())
    }

    /// Waits until the process is gone.
    pub async fn gone(&self, within: Duration) -> Result<(), LaunchError> {
        until("the end of a node", within, async || {
            let alive = self.is_alive();
            let pid = self.pid();
            Ok(if alive { Probe::NotYet(format!("pid {pid} runs")) } else { Probe::Done(()) })
        })
        .await
    }

    /// The last words on its stderr, on one line.
    pub(super) fn last_words(&self) -> String {
        let text = fs::read(&self.stderr).unwrap_or_default();
        let tail = &text[text.len().saturating_sub(STDERR_TAIL)..];
        let text = String::from_utf8_lossy(tail);
        let lines = text.lines().rev().filter(|line| !line.trim().is_empty());
        lines.take(1).map(str::trim).collect()
    }

    fn signal(&self, signal: Signal) {
        if self.is_alive() {
            // It may end between the look and the signal; then there is nothing left to do.
            let _ = kill_process(self.pid, signal);
        }
    }
}

/// A zombie has an empty command line, so it serves nothing.
fn serves(pid: Pid, data: &Path) -> bool {
    let path = format!("/proc/{}/cmdline", pid.as_raw_nonzero());
    let Ok(bytes) = fs::read(path) else { return false };
    let mut arguments = bytes.split(|byte| *byte == 0);
    let is_serve = arguments.clone().nth(1) == Some(b"serve");
    let data = data.as_os_str().as_encoded_bytes();
    is_serve && arguments.any(|argument| argument == data)
}

fn no_command() -> LaunchError {
    LaunchError::Refused("a node has no command".to_owned())
}

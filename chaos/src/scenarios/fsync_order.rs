//! SIGKILL leaves the page cache alone, so it says nothing about syncing. Here every system call is
//! watched: the record of each acknowledged write is synced, on a quorum, before the answer leaves.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use client::keys::NewKey;
use rustix::process::{Pid, Signal, kill_process};

use super::Run;
use crate::live::Live;
use crate::trace;

const WRITES: usize = 50;
const CALLS: &str = "trace=fdatasync,fsync,pwrite64,write,sendto,sendmsg,writev";
/// A batch of the log is shown whole, so that a marker is found wherever it stands.
const SHOWN_BYTES: &str = "131072";
const ATTACHED_WITHIN: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(10);

pub(crate) async fn run(run: &Run) -> Result<()> {
    if let Some(reason) = unavailable() {
        run.report.summary(&format!("SKIPPED fsync-order: 0 acknowledgements checked: {reason}"));
        return Ok(());
    }
    for nodes in [1, 3] {
        let live = Live::start(nodes, &[]).await?;
        let mut told = String::new();
        let done = Box::pin(play(&live, nodes, &mut told)).await;
        if done.is_ok() {
            run.report.summary(&told);
        }
        live.end(done, run.keep, run.report).await?;
    }
    Ok(())
}

/// Why calls cannot be watched here.
fn unavailable() -> Option<String> {
    let tried = Command::new("strace").args(["-o", "/dev/null", "true"]).output();
    match tried {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ")),
        Err(error) => Some(format!("strace does not start: {error}")),
    }
}

/// An acknowledged write.
struct Ack {
    marker: String,
    index: String,
}

async fn play(live: &Live, nodes: usize, told: &mut String) -> Result<()> {
    let mut traces = Vec::new();
    for i in 0..nodes {
        let pid = live.cluster.pid(i).context("a node without a process")?;
        traces.push(Trace::attach(pid, live.directory().join(format!("strace-{i}"))).await?);
    }
    let acks = write(live, nodes).await?;
    let mut calls = Vec::new();
    for trace in traces {
        let path = trace.detach().await?;
        let text = fs::read(&path).with_context(|| path.display().to_string())?;
        calls.push(trace::read(&String::from_utf8_lossy(&text)));
    }
    let quorum = nodes / 2 + 1;
    let mut margin = u64::MAX;
    for Ack { marker, index } in &acks {
        let answered = calls.iter().filter_map(|calls| trace::answered(calls, index)).min();
        let answered = answered.with_context(|| format!("no answer with {index} in the trace"))?;
        let mut synced: Vec<_> =
            calls.iter().filter_map(|calls| trace::synced(calls, marker)).collect();
        synced.sort_unstable();
        let Some(&durable) = synced.get(quorum - 1) else {
            bail!("{marker} ({index}) was synced on {} of {quorum} nodes", synced.len());
        };
        ensure!(
            durable <= answered,
            "{marker} ({index}) was answered {} us before it was synced on {quorum} nodes",
            durable - answered
        );
        margin = margin.min(answered - durable);
    }
    let syncs = calls.iter().flatten().filter(|call| call.name == "fdatasync").count();
    *told = format!(
        "fsync-order: {nodes} node(s), {} acknowledgements checked, 0 violations, synced on >= \
         {quorum} node(s) at least {margin} us before the answer; {syncs} fdatasync seen",
        acks.len(),
    );
    Ok(())
}

/// One write after the other, through all nodes in turn.
async fn write(live: &Live, nodes: usize) -> Result<Vec<Ack>> {
    let mut acks = Vec::new();
    for i in 0..WRITES {
        let marker = format!("fsync-marker-{i:05}");
        let key = NewKey { name: marker.clone(), ..NewKey::default() };
        let client = live.cluster.tenant_of(i % nodes)?;
        let answer = client.create_key(&key, &client::fresh_key()).await?;
        let index = answer.meta.index.context("a write without Skep-Index")?;
        acks.push(Ack { marker, index });
    }
    Ok(acks)
}

/// A running `strace` of one node.
struct Trace {
    child: Child,
    path: PathBuf,
}

impl Trace {
    async fn attach(pid: u32, path: PathBuf) -> Result<Trace> {
        let messages = path.with_extension("messages");
        let child = Command::new("strace")
            .args(["-f", "-ttt", "-T", "-y", "-s", SHOWN_BYTES, "-e", CALLS])
            .arg("-o")
            .arg(&path)
            .args(["-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stderr(File::create(&messages)?)
            .spawn()?;
        let mut trace = Trace { child, path };
        let began = Instant::now();
        while !said(&messages)?.contains("attached") {
            let ended = trace.child.try_wait()?.is_some();
            let late = began.elapsed() > ATTACHED_WITHIN;
            ensure!(!ended && !late, "strace does not attach: {}", said(&messages)?);
            tokio::time::sleep(LOOK).await;
        }
        Ok(trace)
    }

    /// Gives where the trace is.
    async fn detach(mut self) -> Result<PathBuf> {
        self.signal(Signal::INT);
        let began = Instant::now();
        while self.child.try_wait()?.is_none() {
            ensure!(began.elapsed() < ATTACHED_WITHIN, "strace does not end");
            tokio::time::sleep(LOOK).await;
        }
        Ok(std::mem::take(&mut self.path))
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // It may have ended by itself, which its exit status tells.
            let _ = kill_process(pid, signal);
        }
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.signal(Signal::TERM);
            // Blocks a moment only: strace lets its process go and ends.
            let _ = self.child.wait();
        }
    }
}

fn said(messages: &Path) -> Result<String> {
    Ok(fs::read_to_string(messages)?.trim().to_owned())
}

//! Three processes with nothing of a node but its log, its peer port and its groups. They are this
//! program again; they are told what to do on stdin and answer on stdout, one JSON value a line.

pub(crate) mod process;

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::cpu;
use crate::sample::Sample;

const NODES: usize = 3;
/// Until all groups have three voters and leadership is spread.
const READY_WITHIN: Duration = Duration::from_secs(90);

/// What a process tells.
#[derive(Debug, Serialize, Deserialize)]
enum Said {
    /// The peer address, `/`, the hash of the authority that joiners must see.
    Listening {
        peer: String,
    },
    /// All groups are whole; `leads` the one that is measured.
    Ready {
        leads: bool,
    },
    Measured(Sample),
}

/// What the leader is asked.
#[derive(Debug, Serialize, Deserialize)]
struct Asked {
    writers: usize,
    time: Duration,
}

/// The running processes.
#[derive(Debug)]
pub(crate) struct Replicas {
    processes: Vec<Process>,
    leader: usize,
    directory: TempDir,
}

impl Replicas {
    /// Starts the processes and waits until the group has its three voters.
    pub(crate) async fn start() -> Result<Replicas> {
        let directory = tempfile::Builder::new().prefix("skep-bench-raft-").tempdir()?;
        let mut processes: Vec<Process> = Vec::new();
        let mut first = None;
        for i in 0..NODES {
            let data = directory.path().join(format!("node-{i}"));
            std::fs::create_dir(&data)?;
            let mut process = Process::spawn(&data, i, first.as_deref())?;
            let Said::Listening { peer } = process.hear(READY_WITHIN).await? else {
                bail!("raft-node {i} does not listen");
            };
            first.get_or_insert(peer);
            processes.push(process);
        }
        let mut leader = None;
        for (i, process) in processes.iter_mut().enumerate() {
            let Said::Ready { leads } = process.hear(READY_WITHIN).await? else {
                bail!("raft-node {i} is not ready");
            };
            if leads {
                leader = Some(i);
            }
        }
        let leader = leader.context("no raft-node leads")?;
        Ok(Replicas { processes, leader, directory })
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        self.processes.iter().filter_map(|process| process.child.id()).collect()
    }

    /// Has the leader's writers propose for `time`.
    pub(crate) async fn measure(&mut self, writers: usize, time: Duration) -> Result<Sample> {
        let pids = self.pids();
        let cpu_before = cpu::used_ms(&pids)?;
        let leader = &mut self.processes[self.leader];
        leader.ask(&Asked { writers, time }).await?;
        let Said::Measured(mut sample) = leader.hear(time + READY_WITHIN).await? else {
            bail!("the leader did not measure");
        };
        sample.cpu_ms = cpu::used_ms(&pids)? - cpu_before;
        let complaint = sample.complaint.as_deref().unwrap_or_default();
        ensure!(sample.ops > 0, "no proposal succeeded: {complaint}");
        Ok(sample)
    }

    pub(crate) async fn stop(mut self) -> Result<()> {
        for process in &mut self.processes {
            process.child.kill().await?;
        }
        Ok(self.directory.close()?)
    }
}

#[derive(Debug)]
struct Process {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Process {
    fn spawn(data: &std::path::Path, i: usize, join: Option<&str>) -> Result<Process> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("raft-node").arg("--data").arg(data).args(["--number", &i.to_string()]);
        command.args(join.map(|join| format!("--join={join}")));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn()?;
        let input = child.stdin.take().context("raft-node has no stdin")?;
        let output = child.stdout.take().context("raft-node has no stdout")?;
        Ok(Process { child, input, output: BufReader::new(output).lines() })
    }

    async fn ask(&mut self, asked: &Asked) -> Result<()> {
        let line = serde_json::to_string(asked)? + "\n";
        self.input.write_all(line.as_bytes()).await?;
        Ok(self.input.flush().await?)
    }

    async fn hear(&mut self, within: Duration) -> Result<Said> {
        let line = timeout(within, self.output.next_line()).await.context("raft-node is silent")?;
        let line = line?.context("raft-node has ended")?;
        serde_json::from_str(&line).with_context(|| format!("raft-node said {line}"))
    }
}

//! A local cluster of real processes on loopback: `skep dev`, `skep demo` and the tests start, kill
//! and restart their nodes through it. Invariant: what is needed to come back (keys, ports, commands)
//! is on disk before anyone is told of it.

mod check;
mod error;
mod form;
mod poll;
mod ports;
mod process;
mod settings;
mod state;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use client::{Client, ClientError, Credential};

pub use check::Digests;
pub use error::LaunchError;
pub use poll::{Probe, until};
pub use ports::{Ports, free_ports, is_free};
pub use process::Process;
pub use settings::from_environment;
pub use state::{NodeState, State, TenantKey, remove_if_there, write_private};

/// How long a node may take to end after SIGTERM before it is killed.
pub const STOP_GRACE: Duration = Duration::from_secs(10);

/// What cluster to start, and where.
#[derive(Debug, Clone)]
pub struct Spec {
    /// The `skep` binary.
    pub binary: PathBuf,
    /// Holds everything of the cluster; node `i` lives in `node-i`.
    pub directory: PathBuf,
    /// One entry per node. A directory that holds a cluster keeps the ports it had.
    pub ports: Vec<Ports>,
    /// `key=value`, given to every node as `--set`.
    pub settings: Vec<String>,
    /// Further arguments of node `i`, such as `--peer-dial`.
    pub arguments: Vec<Vec<String>>,
    /// Puts each node into its own process group, out of reach of the terminal's ^C.
    pub own_groups: bool,
    /// Leaves the nodes running when the handle is dropped.
    pub outlive: bool,
}

/// A cluster whose nodes run on this machine.
#[derive(Debug)]
pub struct Cluster {
    spec: Spec,
    state: State,
    processes: Vec<Option<Process>>,
    variables: Vec<Vec<(String, String)>>,
    /// Held so that two launchers never share a directory.
    _lock: File,
}

impl Cluster {
    /// Takes the directory and remembers what was formed in it before; starts nothing.
    pub fn open(spec: Spec) -> Result<Cluster, LaunchError> {
        state::create_directory(&spec.directory)?;
        let directory = std::fs::canonicalize(&spec.directory)
            .map_err(|source| LaunchError::file("cannot find", &spec.directory, source))?;
        let spec = Spec { directory, ..spec };
        let lock = state::lock(&spec.directory)?;
        let mut state = state::load(&spec.directory)?;
        for ports in spec.ports.iter().skip(state.nodes.len()) {
            state.nodes.push(NodeState { id: None, ports: *ports, command: Vec::new() });
        }
        let processes = state.nodes.iter().map(|_| None).collect();
        let variables = vec![Vec::new(); state.nodes.len()];
        Ok(Cluster { spec, state, processes, variables, _lock: lock })
    }

    /// The number of nodes, dead ones included.
    pub fn len(&self) -> usize {
        self.state.nodes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.state.nodes.is_empty()
    }

    /// Keys, ports and commands.
    pub fn state(&self) -> &State {
        &self.state
    }

    pub fn directory(&self) -> &Path {
        &self.spec.directory
    }

    /// The data directory of node `i`.
    pub fn data(&self, i: usize) -> PathBuf {
        self.spec.data(i)
    }

    pub fn pid(&self, i: usize) -> Option<u32> {
        self.processes[i].as_ref().map(Process::pid)
    }

    pub fn is_alive(&self, i: usize) -> bool {
        self.processes[i].as_ref().is_some_and(Process::is_alive)
    }

    /// How node `i` ended, if it has ended and was our child.
    pub fn exit_status(&self, i: usize) -> Option<ExitStatus> {
        self.processes[i].as_ref().and_then(Process::exit_status)
    }

    /// The last line that node `i` wrote to its stderr.
    pub fn last_words(&self, i: usize) -> String {
        self.processes[i].as_ref().map(Process::last_words).unwrap_or_default()
    }

    /// The base URL of node `i`.
    pub fn url(&self, i: usize) -> String {
        format!("http://127.0.0.1:{}", self.state.nodes[i].ports.http)
    }

    /// What node `i` is called: its id in the cluster as soon as that is known.
    pub fn name(&self, i: usize) -> String {
        self.state.nodes[i].id.clone().unwrap_or_else(|| format!("node-{i}"))
    }

    /// The node whose id in the cluster is `id`.
    pub fn index_of(&self, id: &str) -> Option<usize> {
        self.state.nodes.iter().position(|node| node.id.as_deref() == Some(id))
    }

    /// A client of all nodes with the operator's key.
    pub fn admin(&self) -> Result<Client, ClientError> {
        Client::new(self.urls(), self.admin_credential())
    }

    /// A client of node `i` alone with the operator's key.
    pub fn admin_of(&self, i: usize) -> Result<Client, ClientError> {
        Client::new(vec![self.url(i)], self.admin_credential())
    }

    /// A client of all nodes, node `first` asked first, with the key of the cluster's tenant.
    pub fn tenant(&self, first: usize) -> Result<Client, ClientError> {
        let mut urls = self.urls();
        let turns = first % urls.len().max(1);
        urls.rotate_left(turns);
        Client::new(urls, self.tenant_credential())
    }

    /// A client of node `i` alone with the key of the cluster's tenant.
    pub fn tenant_of(&self, i: usize) -> Result<Client, ClientError> {
        Client::new(vec![self.url(i)], self.tenant_credential())
    }

    /// The base URLs of all nodes.
    pub fn urls(&self) -> Vec<String> {
        (0..self.len()).map(|i| self.url(i)).collect()
    }

    /// Variables that node `i` has from its next start on, besides those of this process. Nothing of
    /// them is on record.
    pub fn set_variables(&mut self, i: usize, variables: Vec<(String, String)>) {
        self.variables[i] = variables;
    }

    /// Another binary for node `i`, from its next start on.
    pub fn set_binary(&mut self, i: usize, binary: &Path) -> Result<(), LaunchError> {
        if let Some(program) = self.state.nodes[i].command.first_mut() {
            *program = binary.display().to_string();
        }
        self.save()
    }

    /// Starts node `i` again with the command that is on record for it.
    pub fn start(&mut self, i: usize) -> Result<(), LaunchError> {
        let command = self.state.nodes[i].command.clone();
        self.spawn(i, &command)
    }

    /// Kills node `i` with SIGKILL and waits until it is gone.
    pub async fn kill(&self, i: usize) -> Result<(), LaunchError> {
        let Some(process) = &self.processes[i] else { return Ok(()) };
        process.kill();
        process.gone(STOP_GRACE).await
    }

    /// Stops node `i` in its tracks (SIGSTOP); its connections stay open.
    pub fn freeze(&self, i: usize) {
        if let Some(process) = &self.processes[i] {
            process.freeze();
        }
    }

    /// Lets a frozen node go on (SIGCONT).
    pub fn thaw(&self, i: usize) {
        if let Some(process) = &self.processes[i] {
            process.thaw();
        }
    }

    /// Stops node `i` with SIGTERM, and with SIGKILL if it takes longer than [`STOP_GRACE`].
    pub async fn stop(&self, i: usize) -> Result<Option<ExitStatus>, LaunchError> {
        let Some(process) = &self.processes[i] else { return Ok(None) };
        process.stop(STOP_GRACE).await
    }

    /// Stops all nodes at the same time.
    pub async fn stop_all(&self) -> Result<(), LaunchError> {
        let running = self.processes.iter().flatten();
        let stops = running.map(|process| process.stop(STOP_GRACE));
        futures::future::try_join_all(stops).await.map(|_| ())
    }

    /// Kills all nodes at once with SIGKILL and waits until they are gone.
    pub async fn kill_all(&self) -> Result<(), LaunchError> {
        let running: Vec<_> = self.processes.iter().flatten().collect();
        running.iter().for_each(|process| process.kill());
        let gone = running.iter().map(|process| process.gone(STOP_GRACE));
        futures::future::try_join_all(gone).await.map(|_| ())
    }

    fn spawn(&mut self, i: usize, command: &[String]) -> Result<(), LaunchError> {
        if self.is_alive(i) {
            return Err(LaunchError::Refused(format!("node {i} already runs")));
        }
        let (home, data) = (self.spec.home(i), self.spec.data(i));
        state::create_directory(&home)?;
        let stderr = home.join("stderr.log");
        let (variables, own_group) = (&self.variables[i], self.spec.own_groups);
        let process = Process::spawn(command, variables, &data, &stderr, own_group)?;
        self.processes[i] = Some(process);
        Ok(())
    }

    fn save(&self) -> Result<(), LaunchError> {
        write_private(&state::state_path(&self.spec.directory), &self.state)
    }

    fn admin_credential(&self) -> Credential {
        self.state.admin_key.clone().map_or_else(Credential::none, Credential::key)
    }

    fn tenant_credential(&self) -> Credential {
        let tenant = self.state.tenant.as_ref();
        tenant.map_or_else(Credential::none, |tenant| Credential::key(&tenant.api_key))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !self.spec.outlive {
            self.processes.iter().flatten().for_each(Process::kill);
            // So that the directory can be removed at once: a killed process may still be writing.
            self.processes.iter().flatten().for_each(Process::reap);
        }
    }
}

impl Spec {
    fn home(&self, i: usize) -> PathBuf {
        self.directory.join(format!("node-{i}"))
    }

    fn data(&self, i: usize) -> PathBuf {
        self.home(i).join("data")
    }

    /// The command that restarts node `i`: absolute, and without any secret. With the cluster it cannot
    /// found another one, should the directory be lost or be somebody else's.
    fn command(&self, i: usize, ports: Ports, cluster: Option<&str>) -> Vec<String> {
        let mut command = vec![
            self.binary.display().to_string(),
            "serve".to_owned(),
            "--data".to_owned(),
            self.data(i).display().to_string(),
            "--http".to_owned(),
            format!("127.0.0.1:{}", ports.http),
            "--peer".to_owned(),
            format!("127.0.0.1:{}", ports.peer),
        ];
        if let Some(cluster) = cluster {
            command.extend(["--cluster".to_owned(), cluster.to_owned()]);
        }
        for setting in &self.settings {
            command.extend(["--set".to_owned(), setting.clone()]);
        }
        command.extend(self.arguments.get(i).into_iter().flatten().cloned());
        command
    }
}

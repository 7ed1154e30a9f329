//! Forming the cluster: the first node alone, its operator key, then the others by join token.

use std::path::PathBuf;
use std::time::Duration;

use client::tenants::{NewTenant, unlimited};

use super::{
    Cluster, LaunchError, NodeState, Ports, Probe, Process, State, TenantKey, is_free, state, until,
};

/// A join token lives long enough for a slow machine, not for a second use.
const JOIN_TOKEN_TTL_S: u32 = 300;
/// Until every node serves and every group has its voters.
const FORM_WITHIN: Duration = Duration::from_secs(90);
/// Until one node on an empty directory serves.
const BOOTSTRAP_WITHIN: Duration = Duration::from_secs(30);

impl Cluster {
    /// Starts all nodes that do not run, forms or grows the cluster, and waits until every node is
    /// ready and every group has min(3, nodes) voters.
    pub async fn form(&mut self) -> Result<(), LaunchError> {
        let new = self.start_known()?;
        if new.contains(&0) {
            self.start(0)?;
        }
        self.ensure_admin().await?;
        self.join(new.into_iter().filter(|i| *i != 0)).await?;
        self.wait_formed(FORM_WITHIN).await?;
        self.learn_ids().await
    }

    /// Starts one more node, which joins through one that serves; gives its number once it serves.
    pub async fn add(&mut self, ports: Ports) -> Result<usize, LaunchError> {
        let i = self.len();
        let command = self.spec.command(i, ports, self.state.cluster_id.as_deref());
        self.state.nodes.push(NodeState { id: None, ports, command });
        self.processes.push(None);
        self.variables.push(Vec::new());
        self.join(std::iter::once(i)).await?;
        self.wait_ready(i, FORM_WITHIN).await?;
        self.learn_ids().await?;
        Ok(i)
    }

    /// Node `i`, which does not run, loses its disk and joins as a new node; gives its id.
    pub async fn rejoin(&mut self, i: usize) -> Result<String, LaunchError> {
        let data = self.data(i);
        let failed = |source| LaunchError::file("cannot remove", &data, source);
        std::fs::remove_dir_all(&data).map_err(failed)?;
        self.join(std::iter::once(i)).await?;
        self.wait_ready(i, FORM_WITHIN).await?;
        self.learn_ids().await?;
        Ok(self.name(i))
    }

    /// The key of the cluster's tenant; makes the tenant, without limits, if there is none.
    pub async fn ensure_tenant(&mut self, name: &str) -> Result<TenantKey, LaunchError> {
        if let Some(tenant) = &self.state.tenant {
            return Ok(tenant.clone());
        }
        let tenant = NewTenant {
            name: name.to_owned(),
            plan: Some("enterprise".to_owned()),
            overrides: Some(unlimited()),
        };
        // Derived from the cluster, so that a launcher killed before it saved the answer gets the
        // same tenant with the same key the next time.
        let cluster_id = self.state.cluster_id.as_deref().unwrap_or_default();
        let key = format!("launch-{name}-{cluster_id}");
        let answer = self.admin()?.create_tenant(&tenant, &key).await?.body;
        let no_key = || LaunchError::Refused("the new tenant came without a key".to_owned());
        let tenant = TenantKey { id: answer.id, api_key: answer.api_key.ok_or_else(no_key)? };
        self.state.tenant = Some(tenant.clone());
        self.save()?;
        Ok(tenant)
    }

    /// Starts or adopts the nodes that have been in the cluster; gives the ones that have not.
    fn start_known(&mut self) -> Result<Vec<usize>, LaunchError> {
        let mut new = Vec::new();
        for i in 0..self.len() {
            let stderr = self.spec.home(i).join("stderr.log");
            self.processes[i] = Process::find(&self.data(i), &stderr);
            if self.processes[i].is_some() {
                continue;
            }
            self.refuse_taken_ports(i)?;
            // The binary or the settings may be others than last time.
            let cluster = self.state.cluster_id.as_deref();
            let command = self.spec.command(i, self.state.nodes[i].ports, cluster);
            self.state.nodes[i].command = command;
            if self.data(i).join("node.json").exists() {
                self.start(i)?;
            } else {
                new.push(i);
            }
        }
        Ok(new)
    }

    fn refuse_taken_ports(&self, i: usize) -> Result<(), LaunchError> {
        let ports = self.state.nodes[i].ports;
        match [ports.http, ports.peer].into_iter().find(|port| !is_free(*port)) {
            Some(port) => Err(LaunchError::Refused(format!("port {port} of 127.0.0.1 is taken"))),
            None => Ok(()),
        }
    }

    async fn ensure_admin(&mut self) -> Result<(), LaunchError> {
        if self.state.admin_key.is_some() {
            return Ok(());
        }
        self.wait_ready(0, BOOTSTRAP_WITHIN).await?;
        let key = self.admin_of(0)?.init().await?.body;
        self.state.admin_key = Some(key);
        self.state.cluster_id = Some(self.admin_of(0)?.cluster().await?.body.cluster_id);
        self.save()
    }

    /// Starts `nodes` with a token each, all at once.
    async fn join(&mut self, nodes: impl Iterator<Item = usize>) -> Result<(), LaunchError> {
        let nodes: Vec<usize> = nodes.collect();
        if nodes.is_empty() {
            return Ok(());
        }
        let through = self.wait_any_ready(BOOTSTRAP_WITHIN).await?;
        for i in nodes {
            let token_file = self.write_token(i).await?;
            let mut command = self.state.nodes[i].command.clone();
            let peer = self.state.nodes[through].ports.peer;
            command.extend(["--join".to_owned(), format!("127.0.0.1:{peer}")]);
            command.extend(["--token-file".to_owned(), token_file.display().to_string()]);
            self.spawn(i, &command)?;
        }
        Ok(())
    }

    async fn write_token(&self, i: usize) -> Result<PathBuf, LaunchError> {
        let token = self.admin()?.create_join_token(JOIN_TOKEN_TTL_S).await?.body.token;
        state::create_directory(&self.spec.home(i))?;
        let path = self.spec.home(i).join("join.token");
        state::write_private_bytes(&path, token.as_bytes())?;
        Ok(path)
    }

    async fn wait_any_ready(&self, within: Duration) -> Result<usize, LaunchError> {
        until("a node that serves", within, async || {
            for i in (0..self.len()).filter(|i| self.is_alive(*i)) {
                if self.admin_of(i)?.readiness().await.is_ok_and(|found| found.ready) {
                    return Ok(Probe::Done(i));
                }
            }
            Ok(Probe::NotYet("no node is ready".to_owned()))
        })
        .await
    }

    async fn learn_ids(&mut self) -> Result<(), LaunchError> {
        let view = self.admin()?.cluster().await?.body;
        for node in &mut self.state.nodes {
            let peer = format!(":{}", node.ports.peer);
            let seen = view.nodes.iter().find(|seen| seen.peer.ends_with(&peer));
            node.id = seen.map(|seen| seen.id.clone());
        }
        for (i, node) in self.state.nodes.iter_mut().enumerate() {
            node.command = self.spec.command(i, node.ports, Some(&view.cluster_id));
        }
        self.state.cluster_id = Some(view.cluster_id);
        self.save()?;
        for i in 0..self.len() {
            // Spent. A node that is started again needs none.
            state::remove_if_there(&self.spec.home(i).join("join.token"))?;
        }
        Ok(())
    }
}

impl State {
    /// Whether a cluster was formed here before.
    pub fn is_formed(&self) -> bool {
        self.admin_key.is_some()
    }
}

//! The supervision tree of a node, from root to leaf, and how messages of other nodes enter it.
//!
//! ```text
//! NodeSupervisor ── ShardSupervisor (one per owned shard) ── TenantActor, RateLimitActor,
//!                                                            JobCoordinatorActor
//! Supervisor of slots ── InferenceActor (one per slot)
//! ClusterTransport ── NodeGateway, node server ── one session per peer
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, join_all};
use protocol::audit::{Head, Signature};
use protocol::jobs::Worker;
use protocol::owner::Owner;
use protocol::peer::Ask;
use protocol::{GroupId, NodeId, codec};
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use raft::members::Sight as _;
use raft::{Group, Host};
use tokio::sync::watch;
use tracing::{debug, error, info};

use crate::ask::AskError;
use crate::audit::{self, KIND_SIGN, Signer};
use crate::backup::{Backups, KIND_BACKUP};
use crate::blobs::Blobs;
use crate::bounded::{BoundedRef, Counted};
use crate::cache::{Cache, KIND_CACHE};
use crate::grants::{Grants, KIND_RECALL};
use crate::greeting;
use crate::jobs::board::KIND_BACKLOG;
use crate::jobs::workers::KIND_LOAD;
use crate::jobs::{Load, Workers};
use crate::models::{KIND_WARM, Models};
use crate::remote::{Envelope, Inbound, PeerId, PeerTransport, ReplyFrame};
use crate::router::{KIND_ASK, Router};
use crate::scans::{self, KIND_SCAN, Scans};
use crate::shard::{ShardSupervisor, Start};
use crate::slots::{Nothing, Slots};
use crate::standing::{Mouth, Outlook};
use crate::vitals::{KIND_VITALS, Ward};
use crate::work::Runner;

/// How long a node that stops tries to find others for what it leads.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(3);
/// How often new groups are looked for.
const GROUPS_INTERVAL: Duration = Duration::from_millis(200);
/// Failures of one shard's actors before the node gives up.
const FAILURES_MAX: u32 = 5;
/// Pause before the actors of a shard are made again, doubled with each failure.
const RESTART_PAUSE: Duration = Duration::from_millis(100);
/// Changes of ownership that wait for the supervisor: every group changes seldom.
const CHANGES_MAX: usize = 4096;

/// The actors of a node. Clones are the same tree.
#[derive(Clone)]
pub struct System {
    pub host: Arc<Host>,
    pub router: Router,
    pub workers: Workers,
    pub slots: Slots,
    pub models: Models,
    pub blobs: Blobs,
    pub cache: Cache,
    pub runner: Runner,
    pub scans: Scans,
    pub grants: Grants,
    pub ward: Ward,
    pub backups: Backups,
    signer: Signer,
    mouth: Mouth,
    transport: Arc<OnceLock<Arc<dyn PeerTransport>>>,
    failed: watch::Receiver<bool>,
}

impl std::fmt::Debug for System {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "actors of {}", self.host.node())
    }
}

impl System {
    /// Starts the tree below a node whose groups are open.
    pub async fn start(
        host: Arc<Host>,
        router: Router,
        workers: Workers,
        (slots, models): (Slots, Models),
        (blobs, cache): (Blobs, Cache),
        signer: Signer,
        backups: Backups,
    ) -> Result<Self, ActorProcessingErr> {
        let identity = host.peers().identity();
        let me = Worker { node: identity.node, incarnation: identity.start.incarnation };
        let (ways, others) = (router.clone(), workers.clone());
        let (stores, by) = ((blobs.clone(), cache.clone()), models.clone());
        let runner = Runner::start(me, (slots.clone(), by), stores, ways, others);
        let scans = Scans::new(me.node, slots.clone(), runner.clone(), workers.clone());
        let (fail, failed) = watch::channel(false);
        let grants = Grants::new(me);
        grants.start(router.clone());
        let start = (router.clone(), workers.clone(), grants.clone(), fail);
        let (supervisor, _) = Actor::spawn(None, NodeSupervisor, start).await?;
        let supervisor = BoundedRef::new(supervisor, CHANGES_MAX);
        tokio::spawn(follow_groups(Arc::clone(&host), supervisor));
        let kept = blobs.start_keeping();
        let mouth = Mouth::new(me, &host, &slots, &runner, &workers, kept);
        tokio::spawn(mouth.clone().tell());
        tokio::spawn(mouth.clone().rest());
        let (transport, ward) = (Arc::default(), Ward::new(&host));
        Ok(Self {
            host,
            router,
            workers,
            slots,
            models,
            blobs,
            cache,
            runner,
            scans,
            grants,
            ward,
            backups,
            signer,
            mouth,
            transport,
            failed,
        })
    }

    /// Connects the tree with those of other nodes.
    pub fn connect(&self, transport: &Arc<dyn PeerTransport>) {
        // Set once, at boot.
        let _ = self.transport.set(Arc::clone(transport));
        self.router.set_transport(Arc::clone(transport));
        self.workers.set_transport(Arc::clone(transport));
        self.mouth.set_transport(Arc::clone(transport));
        self.scans.set_transport(Arc::clone(transport));
        self.cache.set_transport(Arc::clone(transport));
        self.grants.set_transport(Arc::clone(transport));
        self.backups.set_transport(Arc::clone(transport));
        self.models.start(transport);
        tokio::spawn(greeting::greet(Arc::clone(&self.host), Arc::clone(transport)));
        tokio::spawn(self.ward.clone().tell(Arc::clone(transport)));
        let board = self.workers.board().clone();
        tokio::spawn(board.tell(self.workers.clone(), Arc::clone(transport)));
    }

    /// What the leaders of groups go by, beside what Raft knows; without a transport nobody is up.
    #[must_use]
    pub fn outlook(&self) -> Outlook {
        Outlook::new(&self.workers, &self.mouth, self.transport.get())
    }

    /// Before the process ends: brings what runs here to its end, if that is near; tells every peer,
    /// which then gives what is left to others; and hands over all that it leads. Gives the groups
    /// that nobody took.
    pub async fn leave(&self) -> Vec<GroupId> {
        self.host.leave();
        self.mouth.finish().await;
        self.mouth.stop().await;
        let outlook = self.outlook();
        self.host.hand_over_all(|node| outlook.is_up(node), HANDOVER_TIMEOUT).await
    }

    /// Signatures of replicas that have this head in their own state.
    pub async fn signatures(&self, group: GroupId, head: &Head) -> Vec<Signature> {
        let map = self.host.map().borrow().clone();
        let placement = map.as_ref().and_then(|map| map.groups.get(&group));
        let nodes: BTreeSet<NodeId> =
            placement.iter().flat_map(|at| at.replicas.values().copied()).collect();
        let me = self.host.node();
        let asked = nodes.into_iter().map(|node| async move {
            match self.transport.get().filter(|_| node != me) {
                Some(transport) => audit::ask_to_sign(transport, node, group, head).await,
                None if node == me => self.signer.sign(&self.host, group, head).await,
                None => None,
            }
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    /// Returns when the tree cannot go on and the node should end.
    pub async fn failed(&self) {
        // An error means that the supervisor itself is gone.
        let _ = self.failed.clone().wait_for(|failed| *failed).await;
    }
}

/// What the root is told.
#[derive(Debug)]
pub enum Change {
    Own(Group, Owner),
    Lose(GroupId),
    /// Make the actors of an ownership again, if it is still the one.
    Again(Group, Owner),
}

struct NodeSupervisor;

struct Tree {
    me: ActorRef<Counted<Change>>,
    router: Router,
    workers: Workers,
    grants: Grants,
    fail: watch::Sender<bool>,
    shards: BTreeMap<GroupId, Shard>,
    failures: BTreeMap<GroupId, u32>,
}

struct Shard {
    group: Group,
    owner: Owner,
    actor: ActorRef<Nothing>,
}

impl Actor for NodeSupervisor {
    type Msg = Counted<Change>;
    type State = Tree;
    type Arguments = (Router, Workers, Grants, watch::Sender<bool>);

    async fn pre_start(
        &self,
        me: ActorRef<Self::Msg>,
        (router, workers, grants, fail): Self::Arguments,
    ) -> Result<Tree, ActorProcessingErr> {
        let (shards, failures) = (BTreeMap::new(), BTreeMap::new());
        Ok(Tree { me, router, workers, grants, fail, shards, failures })
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        message: Self::Msg,
        tree: &mut Tree,
    ) -> Result<(), ActorProcessingErr> {
        match message.open().0 {
            Change::Own(group, owner) => {
                tree.failures.remove(&group.id());
                tree.own(group, owner).await
            }
            Change::Lose(group) => {
                tree.lose(group);
                Ok(())
            }
            Change::Again(group, owner) => {
                let still = group.leadership().borrow().owned == Some(owner);
                if still && !tree.shards.contains_key(&group.id()) {
                    return tree.own(group, owner).await;
                }
                Ok(())
            }
        }
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<Self::Msg>,
        event: SupervisionEvent,
        tree: &mut Tree,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(actor, cause) => {
                tree.failed(actor.get_id(), &cause.to_string());
            }
            SupervisionEvent::ActorTerminated(actor, ..) => {
                tree.failed(actor.get_id(), "it ended by itself");
            }
            SupervisionEvent::ActorStarted(_)
            | SupervisionEvent::ProcessGroupChanged(_)
            | SupervisionEvent::PidLifecycleEvent(_) => {}
        }
        Ok(())
    }
}

impl Tree {
    async fn own(&mut self, group: Group, owner: Owner) -> Result<(), ActorProcessingErr> {
        self.lose(group.id());
        let start = Start {
            group: group.clone(),
            owner,
            router: self.router.clone(),
            workers: self.workers.clone(),
            grants: self.grants.clone(),
        };
        let (actor, _) =
            Actor::spawn_linked(None, ShardSupervisor, start, self.me.get_cell()).await?;
        self.shards.insert(group.id(), Shard { group, owner, actor });
        Ok(())
    }

    /// Killed, not stopped: what a handler is about to do belongs to the next owner.
    fn lose(&mut self, group: GroupId) {
        self.router.close(group);
        self.workers.board().clear(group);
        if let Some(shard) = self.shards.remove(&group) {
            info!(%group, epoch = shard.owner.epoch.0, "actors killed");
            shard.actor.kill();
        }
    }

    fn failed(&mut self, actor: ActorId, cause: &str) {
        let found = self.shards.iter().find(|(_, shard)| shard.actor.get_id() == actor);
        // One that was killed on purpose is not in the tree any more.
        let Some((&id, _)) = found else { return };
        self.router.close(id);
        self.workers.board().clear(id);
        let Some(Shard { group, owner, .. }) = self.shards.remove(&id) else { return };
        let failures = self.failures.entry(id).or_default();
        *failures += 1;
        error!(group = %id, failures = *failures, cause, "the actors of a shard failed");
        if *failures > FAILURES_MAX {
            self.fail.send_replace(true);
            return;
        }
        let pause = RESTART_PAUSE * 2u32.pow(*failures - 1);
        let me = BoundedRef::new(self.me.clone(), 1);
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            if me.try_send(Change::Again(group, owner)).is_err() {
                debug!("the tree is gone");
            }
        });
    }
}

/// Watches every group that has a replica here, those that come later included.
async fn follow_groups(host: Arc<Host>, supervisor: BoundedRef<Change>) {
    let mut watched = BTreeSet::new();
    let mut ticks = raft::ticks::ticks(GROUPS_INTERVAL);
    loop {
        ticks.tick().await;
        for group in host.groups() {
            // A group that went may come back as another replica.
            if !group.id().is_meta() && watched.insert((group.id(), group.replica())) {
                tokio::spawn(follow_ownership(group, supervisor.clone()));
            }
        }
    }
}

async fn follow_ownership(group: Group, supervisor: BoundedRef<Change>) {
    let mut leadership = group.leadership();
    let mut owned = None;
    loop {
        let now = leadership.borrow_and_update().owned;
        if now != owned {
            let change = match now {
                Some(owner) => Change::Own(group.clone(), owner),
                None => Change::Lose(group.id()),
            };
            if let Err(error) = supervisor.try_send(change) {
                error!(group = %group.id(), %error, "ownership not passed on");
            }
            owned = now;
        }
        if leadership.changed().await.is_err() {
            return;
        }
    }
}

/// Lets other nodes' questions, work and loads in.
#[derive(Debug, Clone)]
pub struct Gate {
    router: Router,
    workers: Workers,
    scans: Scans,
    cache: Cache,
    models: Models,
    grants: Grants,
    ward: Ward,
    backups: Backups,
    signer: Signer,
    host: Arc<Host>,
}

impl Gate {
    /// The gate of a tree.
    #[must_use]
    pub fn of(system: &System) -> Self {
        Self {
            router: system.router.clone(),
            workers: system.workers.clone(),
            scans: system.scans.clone(),
            cache: system.cache.clone(),
            models: system.models.clone(),
            grants: system.grants.clone(),
            ward: system.ward.clone(),
            backups: system.backups.clone(),
            signer: system.signer.clone(),
            host: Arc::clone(&system.host),
        }
    }

    async fn ask(self, group: GroupId, payload: Bytes) -> ReplyFrame {
        let Ok(ask) = codec::decode::<Ask>(&payload) else { return ReplyFrame::Internal };
        match self.router.ask_here(group, &ask).await {
            Err(AskError::NotOwner { leader, .. }) => {
                ReplyFrame::NotOwner { leader_hint: leader.map(|node| node.0), epoch: 0 }
            }
            answered => reply(&answered),
        }
    }
}

fn reply<T: serde::Serialize>(answer: &T) -> ReplyFrame {
    match codec::encode(answer) {
        Ok(bytes) => ReplyFrame::Ok(Bytes::from(bytes)),
        Err(error) => {
            error!(%error, "answer does not encode");
            ReplyFrame::Internal
        }
    }
}

impl Inbound for Gate {
    fn call(&self, from: PeerId, envelope: Envelope) -> BoxFuture<'static, ReplyFrame> {
        let gate = self.clone();
        Box::pin(async move {
            match envelope.kind {
                KIND_ASK => {
                    // Finished though the caller may give up: what was proposed stands.
                    let asked = gate.ask(GroupId(envelope.shard), envelope.payload);
                    tokio::spawn(asked).await.unwrap_or(ReplyFrame::Internal)
                }
                KIND_SCAN => match codec::decode(&envelope.payload) {
                    Ok(question) => scans::answer(gate.scans.scan_for(question).await),
                    Err(_) => ReplyFrame::Internal,
                },
                KIND_CACHE => gate.cache.answer(&envelope.payload).await,
                KIND_WARM => match codec::decode(&envelope.payload) {
                    Ok(key) => reply(&gate.models.warm_here(key).await),
                    Err(_) => ReplyFrame::Internal,
                },
                KIND_SIGN => match codec::decode(&envelope.payload) {
                    Ok(head) => {
                        let group = GroupId(envelope.shard);
                        reply(&gate.signer.sign(&gate.host, group, &head).await)
                    }
                    Err(_) => ReplyFrame::Internal,
                },
                KIND_RECALL => match codec::decode(&envelope.payload) {
                    Ok(recall) => {
                        gate.grants.recalled(GroupId(envelope.shard), recall);
                        ReplyFrame::Ok(Bytes::new())
                    }
                    Err(_) => ReplyFrame::Internal,
                },
                KIND_BACKUP => match gate.backups.serve(&envelope.payload) {
                    Some(answer) => ReplyFrame::Ok(Bytes::from(answer)),
                    None => ReplyFrame::Internal,
                },
                // One that must be known to have been heard.
                KIND_LOAD => {
                    gate.post(from, envelope);
                    ReplyFrame::Ok(Bytes::new())
                }
                _ => ReplyFrame::Unsupported { max_version: crate::remote::WIRE_VERSION },
            }
        })
    }

    fn post(&self, from: PeerId, envelope: Envelope) {
        if envelope.kind == KIND_VITALS {
            match codec::decode(&envelope.payload) {
                Ok(vitals) => self.ward.note(NodeId(from.node), vitals),
                Err(error) => debug!(%error, "vitals of a peer not understood"),
            }
            return;
        }
        if envelope.kind == KIND_CACHE {
            return self.cache.take(&envelope.payload);
        }
        if envelope.kind == KIND_BACKLOG {
            match codec::decode(&envelope.payload) {
                Ok(backlog) => self.workers.board().hear(NodeId(from.node), backlog),
                Err(error) => debug!(%error, "backlog of a peer not understood"),
            }
            return;
        }
        if envelope.kind != KIND_LOAD {
            return;
        }
        let worker = Worker { node: NodeId(from.node), incarnation: from.incarnation };
        match codec::decode::<Load>(&envelope.payload) {
            Ok(load) => {
                crate::clock::hear(worker.node, load.wall);
                self.workers.note(worker, load);
            }
            Err(error) => debug!(%error, "load of a peer not understood"),
        }
    }
}

//! openraft's side of the connections.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::errors::{NetworkError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse};
use protocol::{GroupId, NodeId, ReplicaId, codec};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{CallError, Class, Kind, Peers};
use crate::checkpoint::stream::{Sender, Streams};
use crate::heard::Heard;
use crate::types::{
    AppendRequest, AppendResponse, Member, RpcError, Snapshot, SnapshotData, TypeConfig, Vote,
    VoteRequest, VoteResponse,
};

/// Makes clients to the other replicas of one group.
#[derive(Debug, Clone)]
pub(crate) struct Network {
    peers: Arc<Peers>,
    streams: Arc<Streams>,
    group: GroupId,
    heard: Arc<Heard>,
}

impl Network {
    pub(crate) fn new(
        peers: Arc<Peers>,
        streams: Arc<Streams>,
        group: GroupId,
        heard: Arc<Heard>,
    ) -> Self {
        Self { peers, streams, group, heard }
    }

    fn client(&self, target: u64, node: NodeId, class: Class) -> Client {
        Client { network: self.clone(), node, replica: ReplicaId(target), class }
    }
}

/// A vote, and what else the voter knows.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Ballot {
    pub(crate) answer: VoteResponse,
    /// Milliseconds for which it has heard no leader.
    pub(crate) silence_ms: u64,
}

/// A client to one replica. Every request names it: its node may host an earlier replica of the group,
/// whose log and votes are not its own.
#[derive(Debug)]
pub(crate) struct Client {
    network: Network,
    node: NodeId,
    replica: ReplicaId,
    /// Of its appends: heartbeats have a connection of their own.
    class: Class,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: u64, member: &Member) -> Client {
        self.client(target, member.node, Class::Log)
    }

    async fn new_heartbeat_client(&mut self, target: u64, member: &Member) -> Client {
        self.client(target, member.node, Class::Control)
    }
}

impl Client {
    async fn call<Q: Serialize, A: DeserializeOwned>(
        &self,
        class: Class,
        kind: Kind,
        request: &Q,
        timeout: Duration,
    ) -> Result<A, RpcError> {
        let body = codec::encode(&(self.replica, request));
        let body = body.map_err(|error| RpcError::Network(NetworkError::new(&error)))?;
        let body = Bytes::from(body);
        let Network { peers, group, .. } = &self.network;
        match peers.call(self.node, class, kind, *group, body, timeout).await {
            Ok(answer) => {
                codec::decode(&answer).map_err(|error| RpcError::Network(NetworkError::new(&error)))
            }
            Err(error @ CallError::Unreachable { .. }) => {
                Err(RpcError::Unreachable(Unreachable::new(&error)))
            }
            Err(error) => Err(RpcError::Network(NetworkError::new(&error))),
        }
    }
}

impl RaftNetworkV2<TypeConfig> for Client {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        request: AppendRequest,
        option: RPCOption,
    ) -> Result<AppendResponse, RpcError> {
        self.call(self.class, Kind::Append, &request, option.hard_ttl()).await
    }

    async fn vote(
        &mut self,
        request: VoteRequest,
        option: RPCOption,
    ) -> Result<VoteResponse, RpcError> {
        self.network.heard.campaign(&request);
        let Ballot { answer, silence_ms } =
            self.call(Class::Control, Kind::Vote, &request, option.hard_ttl()).await?;
        let silence = Duration::from_millis(silence_ms);
        self.network.heard.answered(request.vote.leader_id.term, &answer, silence);
        Ok(answer)
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest,
        option: RPCOption,
    ) -> Result<VoteResponse, RpcError> {
        self.call(Class::Control, Kind::PreVote, &request, option.hard_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let SnapshotData::Ours(outgoing) = snapshot.snapshot else {
            let error = std::io::Error::other("a state that has arrived is not sent on");
            return Err(StreamingError::Network(NetworkError::new(&error)));
        };
        let least = snapshot.meta.last_log_id;
        let Network { peers, streams, group, .. } = self.network.clone();
        let sender = Sender { peers, streams, node: self.node, group, replica: self.replica };
        tokio::select! {
            sent = sender.send(vote, &outgoing, least) => sent.map_err(|error| {
                match matches!(error, CallError::Unreachable { .. }) {
                    true => StreamingError::Unreachable(Unreachable::new(&error)),
                    false => StreamingError::Network(NetworkError::new(&error)),
                }
            }),
            closed = cancel => Err(StreamingError::Closed(closed)),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RpcError> {
        self.call(Class::Control, Kind::TransferLeader, &request, option.hard_ttl()).await
    }
}

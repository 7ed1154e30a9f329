//! What two nodes say to each other first, once TLS has shown who they are: what the connection is
//! for, and which start of a node this is. Invariant: nothing but a reason is told to a node that the
//! cluster map does not let in. The bytes of these messages are the same in every release: they are
//! how two releases find out about each other.

use std::io;

use protocol::nodes::{LifeId, Start};
use protocol::versions::Wire;
use protocol::{NodeId, codec};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client, server};

use super::refusal::Reason;
use super::trust::{self, Identity, Trust};
use super::{Class, Stream};

/// A first message is short; nobody gets more memory than this before it is read. 64 lives fit.
const MESSAGE_BYTES_MAX: u32 = 4096;

/// What a dialer says first.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Hello {
    to: NodeId,
    class: Class,
    start: Start,
    /// What the dialer's build speaks.
    wire: Wire,
}

/// What an acceptor answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
enum Welcome {
    Member { incarnation: u64, life: LifeId },
    Refused(Reason),
}

/// Who is at the other end of an accepted connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// 0 for a node that wants to join.
    pub node: NodeId,
    pub incarnation: u64,
    pub class: Class,
}

/// Which start of a node answers at the moment, if any does.
pub(super) type Alive<'a> = &'a (dyn Fn(NodeId) -> Option<u64> + Send + Sync);

/// Dials a member; gives the stream and the start of the node that answers.
pub(super) async fn dial(
    tcp: TcpStream,
    trust: &Trust,
    to: NodeId,
    class: Class,
) -> io::Result<(Stream, Start)> {
    let address = tcp.peer_addr()?;
    let met = meet(tcp, trust, to, class).await;
    if let Some(reason) = met.as_ref().err().and_then(Reason::of) {
        trust.refusals().note_dialled(address, to, reason);
    }
    let mut stream = met?;
    let Identity { start, wire, .. } = trust.identity().clone();
    send(&mut stream, &Hello { to, class, start, wire }).await?;
    match receive(&mut stream).await? {
        Welcome::Member { incarnation, life } => {
            let start = trust::start_of(incarnation, life);
            trust.place(to, &start)?;
            Ok((Stream::Client(stream), start))
        }
        Welcome::Refused(reason) => {
            if reason.is_final() {
                trust.end(reason);
            }
            Err(reason.into())
        }
    }
}

/// TLS with a node that is the one that was dialled.
async fn meet(
    tcp: TcpStream,
    trust: &Trust,
    to: NodeId,
    class: Class,
) -> io::Result<client::TlsStream<TcpStream>> {
    let connector = TlsConnector::from(trust.dialing(class));
    let stream = connector.connect(trust.name(to)?, tcp).await?;
    let tls = stream.get_ref().1;
    if !trust::speaks(tls.alpn_protocol(), class) {
        return Err(Reason::NoTls.into());
    }
    let (node, pin) = trust.node_of(tls.peer_certificates())?;
    trust.admit(node, pin)?;
    Ok(stream)
}

/// Dials a node of the cluster that a join token names. Nothing was said before its authority is
/// known to be the right one.
pub(super) async fn dial_as_stranger(
    tcp: TcpStream,
    authority: protocol::Digest,
) -> io::Result<client::TlsStream<TcpStream>> {
    let config = trust::joining(authority).map_err(io::Error::other)?;
    // The name of the node is not known, and the verifier does not look at it.
    let name = rustls::pki_types::ServerName::try_from("join.skep").map_err(io::Error::other)?;
    let stream = TlsConnector::from(config).connect(name, tcp).await?;
    if !trust::is_strange(stream.get_ref().1.alpn_protocol()) {
        return Err(Reason::NoTls.into());
    }
    Ok(stream)
}

/// Answers a dialer whose TLS handshake is done.
pub(super) async fn accept(
    stream: &mut server::TlsStream<TcpStream>,
    trust: &Trust,
    alive: Alive<'_>,
) -> io::Result<(Peer, Start)> {
    let tls = stream.get_ref().1;
    if trust::is_strange(tls.alpn_protocol()) {
        let peer = Peer { node: NodeId(0), incarnation: 0, class: Class::Join };
        return Ok((peer, trust::start_of(0, LifeId::default())));
    }
    let alpn = tls.alpn_protocol().map(<[u8]>::to_vec);
    let named = trust.node_of(tls.peer_certificates());
    let hello: Hello = receive(stream).await?;
    let judged = named.and_then(|(node, pin)| {
        trust.admit(node, pin)?;
        judge(trust, node, &hello, alpn.as_deref(), alive).map(|()| node)
    });
    match judged {
        Ok(node) => {
            let Start { incarnation, life, .. } = trust.identity().start;
            send(stream, &Welcome::Member { incarnation, life }).await?;
            let peer = Peer { node, incarnation: hello.start.incarnation, class: hello.class };
            Ok((peer, hello.start))
        }
        Err(reason) => {
            send(stream, &Welcome::Refused(reason)).await?;
            // It is told and that is all; how the connection ends does not matter.
            let _ = stream.shutdown().await;
            Err(reason.into())
        }
    }
}

fn judge(
    trust: &Trust,
    node: NodeId,
    hello: &Hello,
    alpn: Option<&[u8]>,
    alive: Alive<'_>,
) -> Result<(), Reason> {
    let me = trust.identity();
    if hello.to != me.node {
        return Err(Reason::Name);
    }
    trust.hear(hello.wire)?;
    if hello.class == Class::Join || !trust::speaks(alpn, hello.class) {
        return Err(Reason::Hello);
    }
    trust.place(node, &hello.start)?;
    if node == me.node {
        let same = hello.start.life == me.start.life;
        return if same { Ok(()) } else { Err(Reason::Twin) };
    }
    // Only where a process asks whether it may be the node: a session that broke may still count as
    // alive for a moment, and the connections of a restarted node need not wait for that.
    let other = alive(node).is_some_and(|incarnation| incarnation != hello.start.incarnation);
    if hello.class == Class::Claim && other { Err(Reason::Twin) } else { Ok(()) }
}

async fn send<S, T>(stream: &mut S, message: &T) -> io::Result<()>
where
    S: AsyncWriteExt + Unpin,
    T: Serialize,
{
    let message = codec::encode(message).map_err(io::Error::other)?;
    let mut framed = (message.len() as u32).to_le_bytes().to_vec();
    framed.extend_from_slice(&message);
    stream.write_all(&framed).await?;
    stream.flush().await
}

async fn receive<S: AsyncReadExt + Unpin, T: DeserializeOwned>(stream: &mut S) -> io::Result<T> {
    let len = stream.read_u32_le().await?;
    if len > MESSAGE_BYTES_MAX {
        return Err(Reason::Hello.into());
    }
    let mut message = vec![0; len as usize];
    stream.read_exact(&mut message).await?;
    codec::decode(&message).map_err(|_| Reason::Hello.into())
}

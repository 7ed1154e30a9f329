//! The handshake: both sides prove that they know the cluster's secret, over fresh nonces.
//!
//! Dialer sends [`Hello`]; acceptor answers [`Welcome`] with its proof; dialer sends its proof. A
//! proof is HMAC-SHA256(secret, role ‖ hello ‖ nonce), so neither can be replayed or reflected. It
//! authenticates; it does not encrypt.

use std::io;

use hmac::{Hmac, KeyInit, Mac};
use protocol::{ClusterId, NodeId, codec};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Class, Identity};

const MAGIC: &[u8; 5] = b"SKEP\x01";
/// A handshake message is short; a stranger gets no more memory than this.
const MESSAGE_BYTES_MAX: u32 = 1024;

/// What a dialer says first.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Hello {
    cluster: Option<ClusterId>,
    from: NodeId,
    incarnation: u64,
    to: NodeId,
    class: Class,
    nonce: [u8; 32],
}

/// What an acceptor answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
enum Welcome {
    Member { incarnation: u64, nonce: [u8; 32], proof: [u8; 32] },
    Stranger,
    Refused(String),
}

/// Who is at the other end of an accepted connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// 0 for a node that wants to join.
    pub node: NodeId,
    pub incarnation: u64,
    pub class: Class,
}

pub(super) async fn dial(
    stream: &mut TcpStream,
    identity: &Identity,
    to: NodeId,
    class: Class,
) -> io::Result<()> {
    let hello = Hello {
        cluster: Some(identity.cluster),
        from: identity.node,
        incarnation: identity.incarnation,
        to,
        class,
        nonce: rand::random(),
    };
    stream.write_all(MAGIC).await?;
    let sent = send(stream, &hello).await?;
    let Welcome::Member { nonce, proof: theirs, .. } = receive(stream).await?.1 else {
        return Err(refused("the peer is not of this cluster"));
    };
    if !verify(&identity.secret, "accept", &sent, &hello.nonce, &theirs) {
        return Err(refused("the peer does not know the cluster's secret"));
    }
    send(stream, &proof(&identity.secret, "dial", &sent, &nonce)).await?;
    Ok(())
}

pub(super) async fn dial_as_stranger(stream: &mut TcpStream) -> io::Result<()> {
    let hello = Hello {
        cluster: None,
        from: NodeId(0),
        incarnation: 0,
        to: NodeId(0),
        class: Class::Join,
        nonce: rand::random(),
    };
    stream.write_all(MAGIC).await?;
    send(stream, &hello).await?;
    match receive(stream).await?.1 {
        Welcome::Stranger => Ok(()),
        Welcome::Member { .. } => Err(refused("the peer takes this node for a member")),
        Welcome::Refused(why) => Err(refused(&why)),
    }
}

pub(super) async fn accept(stream: &mut TcpStream, identity: &Identity) -> io::Result<Peer> {
    let mut magic = [0; MAGIC.len()];
    stream.read_exact(&mut magic).await?;
    if magic != *MAGIC {
        return Err(refused("not a peer"));
    }
    let (received, hello): (Vec<u8>, Hello) = receive(stream).await?;
    let peer = Peer { node: hello.from, incarnation: hello.incarnation, class: hello.class };
    if hello.class == Class::Join {
        send(stream, &Welcome::Stranger).await?;
        return Ok(Peer { node: NodeId(0), ..peer });
    }
    if hello.cluster != Some(identity.cluster) || hello.to != identity.node {
        let why = "this is another node or cluster";
        send(stream, &Welcome::Refused(why.to_owned())).await?;
        return Err(refused(why));
    }
    let nonce: [u8; 32] = rand::random();
    let proof = proof(&identity.secret, "accept", &received, &hello.nonce);
    let incarnation = identity.incarnation;
    send(stream, &Welcome::Member { incarnation, nonce, proof }).await?;
    let (_, theirs): (_, [u8; 32]) = receive(stream).await?;
    if !verify(&identity.secret, "dial", &received, &nonce, &theirs) {
        return Err(refused("the peer does not know the cluster's secret"));
    }
    Ok(peer)
}

fn mac(secret: &[u8; 32], role: &str, hello: &[u8], nonce: &[u8; 32]) -> Hmac<Sha256> {
    // HMAC pads a short key with zeros to the block of its hash.
    let mut block = [0; 64];
    block[..secret.len()].copy_from_slice(secret);
    let mut mac = <Hmac<Sha256> as KeyInit>::new(&block.into());
    mac.update(role.as_bytes());
    mac.update(hello);
    mac.update(nonce);
    mac
}

fn proof(secret: &[u8; 32], role: &str, hello: &[u8], nonce: &[u8; 32]) -> [u8; 32] {
    mac(secret, role, hello, nonce).finalize().into_bytes().into()
}

fn verify(secret: &[u8; 32], role: &str, hello: &[u8], nonce: &[u8; 32], proof: &[u8; 32]) -> bool {
    mac(secret, role, hello, nonce).verify_slice(proof).is_ok()
}

async fn send<T: Serialize>(stream: &mut TcpStream, message: &T) -> io::Result<Vec<u8>> {
    let message = codec::encode(message).map_err(io::Error::other)?;
    stream.write_u32_le(message.len() as u32).await?;
    stream.write_all(&message).await?;
    Ok(message)
}

async fn receive<T: DeserializeOwned>(stream: &mut TcpStream) -> io::Result<(Vec<u8>, T)> {
    let len = stream.read_u32_le().await?;
    if len > MESSAGE_BYTES_MAX {
        return Err(refused("the handshake is too long"));
    }
    let mut message = vec![0; len as usize];
    stream.read_exact(&mut message).await?;
    let value = codec::decode(&message).map_err(io::Error::other)?;
    Ok((message, value))
}

fn refused(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, why.to_owned())
}

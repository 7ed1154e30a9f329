//! The wires between nodes: a small proxy for each ordered pair of them, so that all that one node
//! calls another with passes through this process. Invariant: while a node is cut off, no byte and no
//! end of a connection passes from or to it; clients reach it as ever.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

const CHUNK_BYTES: usize = 64 << 10;

/// How a node is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Connections break and new ones are refused: both sides know at once.
    Broken,
    /// Nothing passes and nothing says so; what was sent arrives when the cut is healed.
    Silent,
}

/// A node to be reached, as its peers know it.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) id: String,
    pub(crate) port: u16,
}

/// All wires of a cluster. Dropping them ends the proxies.
#[derive(Debug)]
pub(crate) struct Wires {
    wires: Vec<Wire>,
    /// Connections that were broken or refused, and chunks that were held back.
    stopped: Arc<AtomicU64>,
}

/// One direction of calling; its connections carry bytes both ways.
#[derive(Debug)]
struct Wire {
    from: usize,
    to: usize,
    id: String,
    address: SocketAddr,
    state: watch::Sender<Option<Cut>>,
    proxy: AbortHandle,
}

/// What a connection knows of its wire.
#[derive(Clone)]
struct End {
    state: watch::Receiver<Option<Cut>>,
    stopped: Arc<AtomicU64>,
}

impl Wires {
    /// A proxy from each node to each other one.
    pub(crate) async fn lay(peers: &[Peer]) -> io::Result<Wires> {
        let stopped = Arc::new(AtomicU64::new(0));
        let mut wires = Vec::new();
        for from in 0..peers.len() {
            for (to, peer) in peers.iter().enumerate().filter(|(to, _)| *to != from) {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
                let address = listener.local_addr()?;
                let (state, seen) = watch::channel(None);
                let end = End { state: seen, stopped: Arc::clone(&stopped) };
                let target = SocketAddr::from((Ipv4Addr::LOCALHOST, peer.port));
                let proxy = tokio::spawn(proxy(listener, target, end)).abort_handle();
                wires.push(Wire { from, to, id: peer.id.clone(), address, state, proxy });
            }
        }
        Ok(Wires { wires, stopped })
    }

    /// What makes node `from` call its peers through its wires.
    pub(crate) fn arguments(&self, from: usize) -> Vec<String> {
        let own = self.wires.iter().filter(|wire| wire.from == from);
        let dial =
            |wire: &Wire| ["--peer-dial".to_owned(), format!("{}={}", wire.id, wire.address)];
        own.flat_map(dial).collect()
    }

    /// Cuts a node off from all others, both ways.
    pub(crate) fn cut(&self, node: usize, cut: Cut) {
        self.stopped.store(0, Ordering::Relaxed);
        self.set(node, Some(cut));
    }

    /// Ends the cut; an error if it stopped nothing, because then there was none.
    pub(crate) fn heal(&self, node: usize) -> Result<u64> {
        self.set(node, None);
        let stopped = self.stopped.load(Ordering::Relaxed);
        ensure!(stopped > 0, "node {node} was cut off and nothing was stopped by it");
        Ok(stopped)
    }

    fn set(&self, node: usize, cut: Option<Cut>) {
        for wire in self.wires.iter().filter(|wire| wire.from == node || wire.to == node) {
            wire.state.send_replace(cut);
        }
    }
}

impl Drop for Wires {
    fn drop(&mut self) {
        self.wires.iter().for_each(|wire| wire.proxy.abort());
    }
}

/// Ends with its task, and its connections with it.
async fn proxy(listener: TcpListener, target: SocketAddr, end: End) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // Out of descriptors or the like: the caller tries again, as over a real network.
                let Ok((near, _)) = accepted else { continue };
                connections.spawn(carry(near, target, end.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// One connection, from its call to its end or to the cut that breaks it.
async fn carry(near: TcpStream, target: SocketAddr, end: End) -> io::Result<()> {
    let carried = async {
        end.passable().await;
        let far = TcpStream::connect(target).await?;
        near.set_nodelay(true)?;
        far.set_nodelay(true)?;
        let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
        tokio::select! {
            ended = pipe(near_in, far_out, &end) => ended,
            ended = pipe(far_in, near_out, &end) => ended,
        }
    };
    tokio::select! {
        () = end.broken() => Ok(()),
        ended = carried => ended,
    }
}

async fn pipe(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, end: &End) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let read = from.read(&mut chunk).await;
        // Also the end of a connection is news that must not pass.
        end.passable().await;
        match read? {
            0 => return Ok(()),
            read => to.write_all(&chunk[..read]).await?,
        }
    }
}

impl End {
    /// Waits while the wire is cut.
    async fn passable(&self) {
        let mut state = self.state.clone();
        if state.borrow_and_update().is_some() {
            self.stopped.fetch_add(1, Ordering::Relaxed);
            // The sender lives as long as the proxy.
            let _ = state.wait_for(Option::is_none).await;
        }
    }

    /// Returns when the wire breaks.
    async fn broken(&self) {
        let mut state = self.state.clone();
        // The sender lives as long as the proxy.
        let _ = state.wait_for(|cut| *cut == Some(Cut::Broken)).await;
        self.stopped.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::{Cut, Peer, Wires};

    /// Long enough for loopback, short for a test.
    const SILENCE: Duration = Duration::from_millis(100);

    async fn wired() -> (Wires, TcpListener) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let peer = |id: &str, port| Peer { id: id.to_owned(), port };
        (Wires::lay(&[peer("n1", 1), peer("n2", port)]).await.unwrap(), listener)
    }

    async fn call(wires: &Wires) -> TcpStream {
        let told = wires.arguments(0).pop().unwrap();
        TcpStream::connect(told.strip_prefix("n2=").unwrap()).await.unwrap()
    }

    #[tokio::test]
    async fn what_was_sent_into_a_silent_cut_arrives_when_it_is_healed() {
        let (wires, listener) = wired().await;
        let mut near = call(&wires).await;
        let (mut far, _) = listener.accept().await.unwrap();
        near.write_all(b"a").await.unwrap();
        assert_eq!(far.read_u8().await.unwrap(), b'a');
        for cut in [0, 1] {
            wires.cut(cut, Cut::Silent);
            near.write_all(b"b").await.unwrap();
            far.write_all(b"c").await.unwrap();
            assert!(tokio::time::timeout(SILENCE, far.read_u8()).await.is_err());
            assert!(tokio::time::timeout(SILENCE, near.read_u8()).await.is_err());
            assert!(wires.heal(cut).unwrap() > 0);
            assert_eq!(far.read_u8().await.unwrap(), b'b');
            assert_eq!(near.read_u8().await.unwrap(), b'c');
        }
    }

    #[tokio::test]
    async fn a_broken_cut_ends_connections_and_takes_no_new_ones() {
        let (wires, listener) = wired().await;
        let mut near = call(&wires).await;
        let (mut far, _) = listener.accept().await.unwrap();
        wires.cut(1, Cut::Broken);
        assert!(near.read_u8().await.is_err());
        assert!(far.read_u8().await.is_err());
        assert!(call(&wires).await.read_u8().await.is_err());
        assert!(wires.heal(1).unwrap() > 1);
        let mut near = call(&wires).await;
        let (mut far, _) = listener.accept().await.unwrap();
        far.write_all(b"d").await.unwrap();
        assert_eq!(near.read_u8().await.unwrap(), b'd');
    }

    #[tokio::test]
    async fn a_cut_that_stops_nothing_is_none() {
        let (wires, _listener) = wired().await;
        wires.cut(0, Cut::Broken);
        assert!(wires.heal(0).is_err());
    }
}

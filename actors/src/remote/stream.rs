//! Sockets between nodes: their options, and the form in which the node server takes them over.

use std::io;
use std::time::Duration;

use ractor_cluster::{BoxRead, BoxWrite, ClusterBidiStream};
use socket2::{SockRef, Socket, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// How long sent bytes may go unacknowledged before the kernel gives the connection up.
const USER_TIMEOUT: Duration = Duration::from_secs(10);
const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(2);
const KEEPALIVE_PROBES: u32 = 3;

/// Sets what every connection between nodes needs: no delay for small messages, and an end within
/// about ten seconds when the other host has vanished without a word.
fn tune(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_EVERY)
        .with_retries(KEEPALIVE_PROBES);
    socket.set_tcp_keepalive(&keepalive)
}

/// A connection on which both sides have said who they are, and the socket beneath it: whatever
/// state the stream is in, the socket can be cut.
pub struct Wire {
    pub(super) read: BoxRead,
    pub(super) write: BoxWrite,
    pub(super) socket: Socket,
}

impl Wire {
    /// Takes over a stream; `tcp` finds its socket, which is tuned.
    pub fn new<S>(stream: S, tcp: impl FnOnce(&S) -> &TcpStream) -> io::Result<Self>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let socket = {
            let tcp = tcp(&stream);
            tune(tcp)?;
            SockRef::from(tcp).try_clone()?
        };
        let (read, write) = tokio::io::split(stream);
        Ok(Self { read: Box::new(read), write: Box::new(write), socket })
    }
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "wire over {:?}", self.socket)
    }
}

/// A stream on its way into the node server. The label comes back in every session event and is
/// the only thing that ties a session to the stream it was made from.
pub(super) struct Labelled {
    pub(super) read: BoxRead,
    pub(super) write: BoxWrite,
    pub(super) label: String,
}

impl ClusterBidiStream for Labelled {
    fn split(self: Box<Self>) -> (BoxRead, BoxWrite) {
        (self.read, self.write)
    }

    fn peer_label(&self) -> Option<String> {
        Some(self.label.clone())
    }
}

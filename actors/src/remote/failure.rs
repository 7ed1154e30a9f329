//! Why something was not sent, not answered or not taken over.

use std::io;

use super::envelope::PAYLOAD_MAX;
use super::window::{WINDOW_BYTES, WINDOW_CALLS};

/// Why a call has no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallFailure {
    /// There is no live session with that boot of the peer. Nothing was sent.
    #[error("not connected to the peer; nothing was sent")]
    NotConnected,
    /// It was sent and no answer came. It may have been carried out, or may still be.
    #[error("no answer from the peer; the outcome is unknown")]
    Unknown,
    /// Too much is on its way to this peer already. Nothing was sent.
    #[error("window to the peer is full: {WINDOW_CALLS} messages or {WINDOW_BYTES} bytes wait")]
    Overloaded,
    /// The payload is above the limit. Nothing was sent.
    #[error("payload of {bytes} bytes is larger than {PAYLOAD_MAX}")]
    TooLarge {
        /// Size of the payload.
        bytes: usize,
    },
}

/// Why an accepted stream was not taken over. The stream is closed; the peer will dial again.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The node is not among the wanted peers.
    #[error("not a wanted peer")]
    Unwanted,
    /// A newer boot of that node is known.
    #[error("a newer boot of the peer is known")]
    Outdated,
    /// The lower node id dials, and that is ours.
    #[error("this node dials that peer, not the other way round")]
    WrongDirection,
    /// This node is stopping.
    #[error("this node is stopping")]
    Stopped,
    /// The socket is of no use.
    #[error("socket: {0}")]
    Socket(#[from] io::Error),
}

//! A question on its way to an owner, and why it may get no answer.

use protocol::peer::{Answer, Ask};
use protocol::{Command, GroupId, NodeId};
use raft::{ProposeError, ReadError};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

/// Why an owner did not answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum AskError {
    /// Nothing was changed.
    #[error("the node asked does not own group {group}")]
    NotOwner { group: GroupId, leader: Option<NodeId> },
    /// Nothing was changed.
    #[error("nobody owns group {group} at the moment")]
    NoLeader { group: GroupId },
    /// Nothing was changed.
    #[error("no quorum of group {group} answers")]
    NoQuorum { group: GroupId },
    /// Nothing was changed.
    #[error("too much waits for group {group}")]
    Overloaded { group: GroupId },
    /// Nothing was changed.
    #[error("the request is too large to be replicated")]
    TooLarge,
    /// It may have been carried out, or may yet be.
    #[error("the outcome in group {group} is unknown")]
    Unknown { group: GroupId },
}

impl AskError {
    /// Whether the request certainly changed nothing.
    #[must_use]
    pub fn is_not_applied(&self) -> bool {
        !matches!(self, Self::Unknown { .. })
    }
}

impl From<ProposeError> for AskError {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::NotLeader { group, leader } => Self::NotOwner { group, leader },
            ProposeError::Overloaded { group } => Self::Overloaded { group },
            ProposeError::TooLarge { .. } => Self::TooLarge,
            ProposeError::Unknown { group } => Self::Unknown { group },
        }
    }
}

impl From<ReadError> for AskError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::NotLeader { group, leader } => Self::NotOwner { group, leader },
            ReadError::NoQuorum { group } => Self::NoQuorum { group },
        }
    }
}

/// What an owner says, or why not.
pub type Answered = Result<Answer, AskError>;

/// A question in a mailbox, with the way back.
#[derive(Debug)]
pub struct Request {
    pub ask: Ask,
    pub reply: oneshot::Sender<Answered>,
}

impl Request {
    /// Whether it asks for a change of jobs.
    #[must_use]
    pub fn is_of_jobs(&self) -> bool {
        matches!(&self.ask, Ask::Propose { command, .. } if matches!(**command, Command::Job(..)))
    }

    /// Answers; the asker may have given up meanwhile, which changes nothing.
    pub fn answer(self, answered: Answered) {
        send(self.reply, answered);
    }
}

/// Answers an asker who may have given up.
pub(crate) fn send(reply: oneshot::Sender<Answered>, answered: Answered) {
    // What was done stands, whether or not the asker still waits.
    let _ = reply.send(answered);
}

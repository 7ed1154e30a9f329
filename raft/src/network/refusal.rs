//! Why connections between nodes are refused, how often that happened, and the log lines about it.
//! Invariant: a source is written about once a minute, however often it comes.

use std::collections::BTreeMap;
use std::error::Error;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use protocol::NodeId;
use rustls::CertificateError;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tracing::{debug, warn};

/// How long a source is not written about again.
const QUIET: Duration = Duration::from_secs(60);
/// Sources that are remembered; beyond it the oldest is forgotten, and may be written about early.
const SOURCES_MAX: usize = 1024;

/// Why a peer is refused. It travels: a refused node must know what to do about it.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, thiserror::Error,
)]
pub enum Reason {
    #[error("no TLS 1.3 of a peer")]
    NoTls,
    #[error("it shows no certificate")]
    NoCertificate,
    #[error("its certificate is not of this cluster's authority")]
    Authority,
    #[error("its certificate is not valid at this time")]
    Expired,
    #[error("its certificate names another node or cluster")]
    Name,
    #[error("its key is not the one that is registered for the node")]
    Pin,
    #[error("the node was removed from the cluster")]
    Removed,
    #[error("the node is not known here yet")]
    Unknown,
    #[error("another start of the node has taken its place: this is a copy, or an old state")]
    Over,
    #[error("the node runs elsewhere")]
    Twin,
    #[error("its first message makes no sense")]
    Hello,
    #[error("no handshake in time")]
    Late,
    #[error("too many unfinished handshakes")]
    Crowded,
    #[error("its build does not speak the wire version of the cluster: start the newer release")]
    Wire,
}

impl Reason {
    /// Every reason, in the order of its number.
    pub const ALL: [Self; 14] = [
        Self::NoTls,
        Self::NoCertificate,
        Self::Authority,
        Self::Expired,
        Self::Name,
        Self::Pin,
        Self::Removed,
        Self::Unknown,
        Self::Over,
        Self::Twin,
        Self::Hello,
        Self::Late,
        Self::Crowded,
        Self::Wire,
    ];

    /// The name in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NoTls => "no_tls",
            Self::NoCertificate => "no_certificate",
            Self::Authority => "authority",
            Self::Expired => "expired",
            Self::Name => "name",
            Self::Pin => "pin",
            Self::Removed => "removed",
            Self::Unknown => "unknown",
            Self::Over => "over",
            Self::Twin => "twin",
            Self::Hello => "hello",
            Self::Late => "late",
            Self::Crowded => "crowded",
            Self::Wire => "wire",
        }
    }

    /// Whether it will never be otherwise for the process that is refused.
    pub(super) fn is_final(self) -> bool {
        matches!(self, Self::Removed | Self::Over | Self::Wire)
    }

    /// The reason in an error of the handshake, if a decision was made and not merely a loss.
    #[must_use]
    pub fn of(error: &io::Error) -> Option<Self> {
        let inner = error.get_ref()?;
        if let Some(reason) = inner.downcast_ref::<Self>() {
            return Some(*reason);
        }
        let tls = inner.downcast_ref::<rustls::Error>()?;
        if let rustls::Error::InvalidCertificate(why) = tls {
            return Some(Self::of_certificate(why));
        }
        let silent = *tls == rustls::Error::NoCertificatesPresented;
        // An alert is the other side's decision, and not ours.
        let told = matches!(tls, rustls::Error::AlertReceived(_));
        let speaks = if silent { Self::NoCertificate } else { Self::NoTls };
        (!told).then_some(speaks)
    }

    fn of_certificate(why: &CertificateError) -> Self {
        if *why == CertificateError::Expired {
            Self::Expired
        } else if *why == CertificateError::NotValidForName {
            Self::Name
        } else {
            Self::Authority
        }
    }
}

impl From<Reason> for io::Error {
    fn from(reason: Reason) -> Self {
        Self::new(io::ErrorKind::PermissionDenied, reason)
    }
}

/// Counts refusals, and writes about them.
#[derive(Debug, Default)]
pub struct Refusals {
    counts: [AtomicU64; Reason::ALL.len()],
    told: Mutex<BTreeMap<SocketAddr, Instant>>,
}

impl Refusals {
    /// How often each reason was given.
    pub fn counts(&self) -> impl Iterator<Item = (Reason, u64)> {
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed));
        Reason::ALL.into_iter().zip(counts)
    }

    /// A connection from `source` was refused.
    pub(super) fn note(&self, source: IpAddr, reason: Reason, detail: &str) {
        self.counts[reason as usize].fetch_add(1, Ordering::Relaxed);
        // Each connection of a source has a port of its own.
        if self.is_news(SocketAddr::new(source, 0)) {
            warn!(%source, reason = reason.name(), detail, "peer connection refused");
        } else {
            debug!(%source, reason = reason.name(), detail, "peer connection refused");
        }
    }

    /// Who answers at `address` is not the node that was dialled.
    pub(super) fn note_dialled(&self, address: SocketAddr, node: NodeId, reason: Reason) {
        self.counts[reason as usize].fetch_add(1, Ordering::Relaxed);
        let why = reason.to_string();
        if self.is_news(address) {
            warn!(%address, %node, reason = reason.name(), why, "dialled peer refused");
        } else {
            debug!(%address, %node, reason = reason.name(), why, "dialled peer refused");
        }
    }

    fn is_news(&self, source: SocketAddr) -> bool {
        let now = Instant::now();
        let mut told = self.told.lock().unwrap_or_else(|_| std::process::abort());
        if told.get(&source).is_some_and(|at| now.duration_since(*at) < QUIET) {
            return false;
        }
        if told.len() >= SOURCES_MAX
            && let Some(oldest) = told.iter().min_by_key(|(_, at)| **at).map(|(&source, _)| source)
        {
            told.remove(&oldest);
        }
        told.insert(source, now);
        true
    }
}

/// An error with what caused it, for one log line.
pub(super) fn whole(error: &io::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

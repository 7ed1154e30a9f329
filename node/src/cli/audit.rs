//! `skep audit`: export the chain of a tenant or of the cluster, and verify an export without any.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use actors::audit::is_signed;
use protocol::wire::audit::{CHECKPOINT, Checkpoint, FLAGS, Record, Trust, signed};
use protocol::{ClusterId, Digest, TenantId};

use super::Context;
use super::failure::Failure;

/// The longest line of an export.
const LINE_BYTES_MAX: usize = 64 << 10;
/// Nothing precedes the first record.
const NOTHING: Digest = Digest([0; 32]);

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Write the whole audit of the key's tenant to stdout as NDJSON
    Export {
        /// The cluster's own instead: what operators did to it, and keys that nobody has (operator)
        #[arg(long, env = "SKEP_CLUSTER")]
        cluster: bool,
    },
    /// Check an export offline: exit 0, or 1 with what is wrong
    Verify {
        /// What `skep audit export` or `GET /v1/audit/export` gave
        file: PathBuf,
        /// Public keys of the nodes, from `GET /admin/v1/trust`; without it only integrity is checked
        #[arg(long, value_name = "FILE")]
        trust: Option<PathBuf>,
    },
}

pub(super) async fn run(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Export { cluster } => {
            let client = context.client()?;
            let text = match cluster {
                true => client.export_cluster_audit().await?,
                false => client.export_audit().await?,
            };
            Ok(context.output.line(text.trim_end())?)
        }
        Command::Verify { file, trust } => {
            let trust = trust.as_deref().map(read_trust).transpose()?;
            let verdict = verify(&file, trust.as_ref())?;
            let told = verdict.map_err(|fault| Failure::failed(fault.to_string()))?;
            Ok(context.output.line(&told)?)
        }
    }
}

/// What is wrong with an export.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    #[error("seq {0}: changed")]
    Changed(u64),
    #[error("seq {0}: missing")]
    Missing(u64),
    #[error("seq {0}: inserted")]
    Inserted(u64),
    #[error("seq {0}: truncated")]
    Truncated(u64),
    #[error("checkpoint: {0}")]
    Checkpoint(String),
}

fn read_trust(path: &Path) -> Result<Trust, Failure> {
    let unusable = |cause: String| Failure::failed(format!("{}: {cause}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| unusable(error.to_string()))?;
    serde_json::from_str(&text).map_err(|error| unusable(error.to_string()))
}

fn verify(path: &Path, trust: Option<&Trust>) -> Result<Result<String, Fault>, Failure> {
    let unreadable =
        |error: std::io::Error| Failure::failed(format!("{}: {error}", path.display()));
    let reader = BufReader::new(File::open(path).map_err(unreadable)?);
    let mut chain = Chain::default();
    for line in reader.lines() {
        // A line that is not text is a changed record.
        let line = line.unwrap_or_default();
        if let Err(fault) = chain.line(&line) {
            return Ok(Err(fault));
        }
    }
    Ok(chain.end(trust))
}

/// The part of an export that was read.
#[derive(Debug)]
struct Chain {
    seq: u64,
    head: Digest,
    checkpoint: Option<Checkpoint>,
}

impl Default for Chain {
    fn default() -> Self {
        Self { seq: 0, head: NOTHING, checkpoint: None }
    }
}

impl Chain {
    fn line(&mut self, line: &str) -> Result<(), Fault> {
        let next = self.seq + 1;
        if self.checkpoint.is_some() {
            return Err(Fault::Inserted(next));
        }
        let checkpoint = serde_json::from_str::<Checkpoint>(line).ok();
        if let Some(checkpoint) = checkpoint.filter(|checkpoint| checkpoint.kind == CHECKPOINT) {
            self.checkpoint = Some(checkpoint);
            return Ok(());
        }
        let record = Some(line).filter(|line| line.len() <= LINE_BYTES_MAX);
        let record = record.and_then(|line| serde_json::from_str::<Record>(line).ok());
        let record = record.ok_or(Fault::Changed(next))?;
        self.link(&record)
    }

    fn link(&mut self, record: &Record) -> Result<(), Fault> {
        let next = self.seq + 1;
        // Joined as they are hashed, other flags could look the same.
        let known = FLAGS.iter().filter(|flag| record.flags.iter().any(|set| set == *flag));
        let sound = known.eq(&record.flags) && record.computed().to_string() == record.hash;
        if record.seq > next {
            return Err(if sound { Fault::Missing(next) } else { Fault::Changed(next) });
        }
        if record.seq < next {
            return Err(Fault::Inserted(next));
        }
        if !sound {
            return Err(Fault::Changed(next));
        }
        if record.prev != self.head.to_string() {
            // Whole in itself, and not made for this place.
            return Err(Fault::Inserted(next));
        }
        self.seq = next;
        self.head = record.computed();
        Ok(())
    }

    fn end(self, trust: Option<&Trust>) -> Result<String, Fault> {
        let next = self.seq + 1;
        let Some(checkpoint) = self.checkpoint else { return Err(Fault::Truncated(next)) };
        if checkpoint.seq > self.seq {
            return Err(Fault::Truncated(next));
        }
        if checkpoint.seq < self.seq {
            return Err(Fault::Inserted(checkpoint.seq + 1));
        }
        if checkpoint.head != self.head.to_string() {
            return Err(Fault::Changed(self.seq));
        }
        let records = self.seq;
        let Some(trust) = trust else {
            return Ok(format!(
                "{records} records are whole; integrity only: without --trust no signature was checked"
            ));
        };
        let signers = signers(&checkpoint, &self.head, trust)?;
        Ok(format!(
            "{records} records are whole, signed by {signers} of {} nodes",
            trust.nodes.len()
        ))
    }
}

/// How many trusted nodes have signed; too few are a fault.
fn signers(checkpoint: &Checkpoint, head: &Digest, trust: &Trust) -> Result<usize, Fault> {
    let fault = |what: &str| Fault::Checkpoint(what.to_owned());
    if checkpoint.cluster_id != trust.cluster_id {
        return Err(fault("is of another cluster"));
    }
    let cluster = ClusterId::parse(&checkpoint.cluster_id).map_err(|_| fault("has no cluster"))?;
    let tenant = TenantId::parse(&checkpoint.tenant_id).map_err(|_| fault("has no tenant"))?;
    let bytes = signed(cluster, tenant, checkpoint.seq, head);
    let mut nodes = BTreeSet::new();
    for signature in &checkpoint.signatures {
        let same = |key: &&protocol::wire::audit::TrustedKey| {
            key.node == signature.node && key.key_id == signature.key_id
        };
        let Some(key) = trust.nodes.iter().find(same) else { continue };
        let public = Digest::parse(&key.public_key).map_err(|_| fault("trust has a bad key"))?.0;
        let sig =
            signature_of(&signature.sig).ok_or_else(|| fault("has a signature that is none"))?;
        if !is_signed(&public, &bytes, &sig) {
            return Err(Fault::Checkpoint(format!("the signature of {} is false", key.node)));
        }
        nodes.insert(&key.node);
    }
    let wanted = match tenant {
        TenantId::CLUSTER => trust.cluster_quorum,
        _ => trust.quorum,
    };
    if nodes.len() < wanted {
        let got = nodes.len();
        return Err(Fault::Checkpoint(format!("{got} of {wanted} trusted nodes have signed")));
    }
    Ok(nodes.len())
}

fn signature_of(hex: &str) -> Option<[u8; 64]> {
    let (first, second) = hex.split_at_checked(64)?;
    let mut sig = [0; 64];
    sig[..32].copy_from_slice(&Digest::parse(first).ok()?.0);
    sig[32..].copy_from_slice(&Digest::parse(second).ok()?.0);
    Some(sig)
}

#[cfg(test)]
mod tests;

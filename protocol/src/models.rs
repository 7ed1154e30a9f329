//! Models that operators bring: versions of an artefact that never changes, and which of them serves.
//! Kept in the cluster map.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::jobs::Blob;
use crate::{Digest, Name, Time};

/// Models that there can be.
pub const MODELS_MAX: usize = 64;
/// Versions of one model.
pub const VERSIONS_MAX: usize = 32;
/// Bytes of one artefact.
pub const ARTEFACT_BYTES_MAX: u64 = 256 << 20;
/// Bytes of a part of an artefact: each is a blob of its own.
pub const PART_BYTES: usize = 4 << 20;
/// Labels of a classifier.
pub const LABELS_MAX: usize = 256;
/// Of so many documents a canary gets its share.
pub const PER_MILLE: u64 = 1_000;
/// The model that every build has. It is not in the registry, and no other may have its name.
pub const BUILT_IN: &str = "docrisk";

/// Names a model for ever; never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ModelId(pub u32);

impl std::fmt::Display for ModelId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "m{}", self.0)
    }
}

/// What a model makes of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// A vector.
    Encoder,
    /// A score per label.
    Classifier,
}

impl Task {
    /// The name in the API.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Encoder => "encoder",
            Self::Classifier => "classifier",
        }
    }
}

/// Where the bytes of a version are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artefact {
    /// Of all of it.
    pub sha256: Digest,
    pub bytes: u64,
    /// In order; on the nodes of the meta group.
    pub parts: Vec<Blob>,
}

/// A version of a model. Nothing of it ever changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    pub artefact: Artefact,
    pub task: Task,
    pub precision: Name,
    /// A result of it may depend on what else is in the batch, so each document runs alone.
    pub batch_dependent: bool,
    /// What a classifier tells apart, in the order of its scores.
    pub labels: Vec<Name>,
    pub added_at: Time,
}

/// A share of the documents goes to another version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Canary {
    pub version: u32,
    /// Of [`PER_MILLE`] documents.
    pub per_mille: u16,
}

/// Which versions serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    pub version: u32,
    pub canary: Option<Canary>,
}

impl Target {
    /// The versions that it names.
    pub fn versions(self) -> impl Iterator<Item = u32> {
        std::iter::once(self.version).chain(self.canary.map(|canary| canary.version))
    }

    /// The version of a document. `draw` is made of the document alone, so that it always sees the
    /// same one.
    #[must_use]
    pub fn choose(&self, draw: u64) -> u32 {
        match self.canary {
            Some(canary) if draw % PER_MILLE < u64::from(canary.per_mille) => canary.version,
            Some(_) | None => self.version,
        }
    }
}

/// A model as the cluster knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    pub id: ModelId,
    pub created_at: Time,
    /// By number, from 1; a number is given once.
    pub versions: BTreeMap<u32, Version>,
    pub next_version: u32,
    /// What serves; `None` until a version was chosen.
    pub target: Option<Target>,
    /// What served before, for going back.
    pub previous: Option<Target>,
    /// Counts changes from 1; the entity tag.
    pub revision: u64,
}

impl Model {
    /// The number of the version that has this content.
    #[must_use]
    pub fn version_of(&self, sha256: Digest) -> Option<u32> {
        let mut versions = self.versions.iter();
        versions.find(|(_, version)| version.artefact.sha256 == sha256).map(|(&number, _)| number)
    }
}

/// What an operator asks of the models.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    Create {
        name: Name,
    },
    /// Its artefact is on a majority of the meta group's nodes already.
    AddVersion {
        name: Name,
        version: Box<Version>,
    },
    /// The versions are warm on every node that lives.
    SetTarget {
        name: Name,
        target: Target,
        /// The revision that is changed.
        if_revision: Option<u64>,
    },
    /// Refused while the version serves.
    RemoveVersion {
        name: Name,
        version: u32,
    },
}

/// The models, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registry {
    pub models: BTreeMap<Name, Model>,
    pub next_model: u32,
}

impl Registry {
    /// Every part of every artefact.
    pub fn parts(&self) -> impl Iterator<Item = Blob> {
        let versions = self.models.values().flat_map(|model| model.versions.values());
        versions.flat_map(|version| version.artefact.parts.iter().copied())
    }

    /// A model and its name.
    #[must_use]
    pub fn find(&self, id: ModelId) -> Option<(&Name, &Model)> {
        self.models.iter().find(|(_, model)| model.id == id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_canary_gets_its_share_and_a_document_one_version() {
        let target = Target { version: 1, canary: Some(Canary { version: 2, per_mille: 50 }) };
        let chosen = (0..10_000).filter(|&draw| target.choose(draw) == 2).count();
        assert_eq!(chosen, 500);
        assert!((0..10_000).all(|draw| target.choose(draw) == target.choose(draw)));
        assert_eq!(Target { canary: None, ..target }.choose(3), 1);
        assert_eq!(target.versions().collect::<Vec<_>>(), [1, 2]);
    }
}

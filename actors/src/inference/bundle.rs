//! What an operator uploads: a tar of `manifest.json`, `model.onnx` and, where the manifest asks for it,
//! `tokenizer.json`. Nothing of it is trusted before it is checked.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use protocol::Name;
use protocol::models::{ARTEFACT_BYTES_MAX, LABELS_MAX, Task};
use serde::{Deserialize, Serialize};

use super::batch::PADDED_TOKENS_DEFAULT;

/// The files of a bundle.
pub const MANIFEST: &str = "manifest.json";
pub const MODEL: &str = "model.onnx";
pub const TOKENIZER: &str = "tokenizer.json";

/// Bytes of a manifest.
const MANIFEST_BYTES_MAX: u64 = 64 << 10;
/// Tokens of one document that a model may look at.
const TOKENS_MAX: usize = 8_192;
/// Padded tokens of one run.
const PADDED_TOKENS_MAX: usize = 1 << 20;
/// Ids that hashing tokenizers may tell apart.
const VOCABULARY_MAX: u32 = 1 << 24;

/// What a model is and how it is fed. A field that this build does not know is a mistake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub task: Task,
    /// As results name it, such as `fp32`.
    pub precision: Name,
    /// What a classifier tells apart, in the order of its scores.
    #[serde(default)]
    pub labels: Vec<Name>,
    pub tokenizer: Tokens,
    /// Tokens of a document that are looked at; those beyond are cut off.
    pub tokens_max: usize,
    /// Every document is padded to `tokens_max`.
    #[serde(default)]
    pub fixed_width: bool,
    #[serde(default)]
    pub padding_id: i32,
    /// Names of the graph's inputs.
    pub inputs: Inputs,
    /// The output with one row per document.
    pub output: Name,
    /// Tokens of one run, padding included.
    #[serde(default = "padded_tokens")]
    pub padded_tokens: usize,
    /// A result may depend on what else is in the batch, as with dynamic INT8.
    #[serde(default)]
    pub batch_dependent: bool,
}

fn padded_tokens() -> usize {
    PADDED_TOKENS_DEFAULT
}

/// How text becomes ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Tokens {
    /// By the `tokenizer.json` of the bundle.
    TokenizerJson,
    /// Three bytes each, hashed into this many ids (a power of two).
    Trigrams { vocabulary: u32 },
}

/// Names of the inputs of a graph; those that it does not have are absent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inputs {
    pub ids: Name,
    /// 1 for a token, 0 for padding.
    #[serde(default)]
    pub mask: Option<Name>,
    /// All 0: there is one segment.
    #[serde(default)]
    pub types: Option<Name>,
}

/// Why a bundle is none.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// It is not what it should be.
    #[error("{0}")]
    Bad(String),
    #[error("disk: {0}")]
    Disk(io::Error),
}

/// Writes the files of a bundle into an empty directory and checks the manifest.
pub fn unpack(tar: impl Read, dir: &Path) -> Result<Manifest, BundleError> {
    let mut archive = tar::Archive::new(tar.take(ARTEFACT_BYTES_MAX));
    let mut found = BTreeSet::new();
    let broken = |error: io::Error| BundleError::Bad(format!("not a tar archive: {error}"));
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let path = entry.path().map_err(broken)?.to_string_lossy().into_owned();
        let name = path.strip_prefix("./").unwrap_or(&path).to_owned();
        if name.is_empty() || entry.header().entry_type().is_dir() {
            continue;
        }
        // By name, never by a path of the archive: nothing leaves the directory.
        let known = [MANIFEST, MODEL, TOKENIZER].into_iter().find(|known| *known == name);
        let file = known.filter(|_| entry.header().entry_type().is_file());
        let file =
            file.ok_or_else(|| BundleError::Bad(format!("has {name:?}, which is unknown")))?;
        if !found.insert(file) {
            return Err(BundleError::Bad(format!("has {file} twice")));
        }
        let mut out = File::create_new(dir.join(file)).map_err(BundleError::Disk)?;
        io::copy(&mut entry, &mut out).map_err(broken)?;
    }
    let manifest = read(dir)?;
    let wanted = (manifest.tokenizer == Tokens::TokenizerJson).then_some(TOKENIZER);
    for file in [MODEL].into_iter().chain(wanted) {
        if !found.contains(file) {
            return Err(BundleError::Bad(format!("has no {file}")));
        }
    }
    Ok(manifest)
}

/// The manifest of an unpacked bundle.
pub fn read(dir: &Path) -> Result<Manifest, BundleError> {
    let path = dir.join(MANIFEST);
    let bytes = fs::metadata(&path).map(|file| file.len());
    match bytes {
        Ok(bytes) if bytes > MANIFEST_BYTES_MAX => {
            let why = format!("{MANIFEST} has {bytes} bytes, {MANIFEST_BYTES_MAX} are allowed");
            return Err(BundleError::Bad(why));
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(BundleError::Bad(format!("has no {MANIFEST}")));
        }
        Err(error) => return Err(BundleError::Disk(error)),
    }
    let text = fs::read(&path).map_err(BundleError::Disk)?;
    let manifest: Manifest = serde_json::from_slice(&text)
        .map_err(|error| BundleError::Bad(format!("{MANIFEST}: {error}")))?;
    check(&manifest).map_err(|why| BundleError::Bad(format!("{MANIFEST}: {why}")))?;
    Ok(manifest)
}

fn check(manifest: &Manifest) -> Result<(), String> {
    let Manifest { labels, tokens_max, padded_tokens, .. } = manifest;
    let distinct: BTreeSet<&Name> = labels.iter().collect();
    let fits = match manifest.task {
        Task::Classifier => (1..=LABELS_MAX).contains(&labels.len()),
        Task::Encoder => labels.is_empty(),
    };
    if !fits || distinct.len() != labels.len() {
        return Err(format!(
            "labels: a classifier has 1 to {LABELS_MAX} different ones, an encoder none"
        ));
    }
    if !(1..=TOKENS_MAX).contains(tokens_max) {
        return Err(format!("tokens_max must be 1 to {TOKENS_MAX}"));
    }
    if !(1..=PADDED_TOKENS_MAX).contains(padded_tokens) {
        return Err(format!("padded_tokens must be 1 to {PADDED_TOKENS_MAX}"));
    }
    if let Tokens::Trigrams { vocabulary } = manifest.tokenizer
        && (!vocabulary.is_power_of_two() || vocabulary > VOCABULARY_MAX)
    {
        return Err(format!("vocabulary must be a power of two up to {VOCABULARY_MAX}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"task":"classifier","precision":"fp32","labels":["a","b"],
        "tokenizer":{"kind":"trigrams","vocabulary":64},"tokens_max":16,
        "inputs":{"ids":"ids"},"output":"probs"}"#;

    fn bundle(files: &[(&str, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, content) in files {
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            header.set_mode(0o600);
            builder.append_data(&mut header, name, content.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn check(files: &[(&str, &str)], expected: &str) {
        let dir = tempfile::tempdir().unwrap();
        let said = match unpack(&bundle(files)[..], dir.path()) {
            Ok(manifest) => format!("{} of {}", manifest.task.name(), manifest.labels.len()),
            Err(error) => error.to_string(),
        };
        assert!(said.starts_with(expected), "{said}");
    }

    #[test]
    fn a_bundle_is_its_three_files_and_nothing_else() {
        check(&[(MANIFEST, GOOD), (MODEL, "x")], "classifier of 2");
        check(&[(MODEL, "x")], "has no manifest.json");
        check(&[(MANIFEST, GOOD)], "has no model.onnx");
        check(&[(MANIFEST, GOOD), (MODEL, "x"), (MODEL, "y")], "has model.onnx twice");
        check(&[(MANIFEST, GOOD), ("a/model.onnx", "x")], "has \"a/model.onnx\", which is unknown");
        let needs =
            GOOD.replace(r#""kind":"trigrams","vocabulary":64"#, r#""kind":"tokenizer_json""#);
        check(&[(MANIFEST, &needs), (MODEL, "x")], "has no tokenizer.json");
        check(&[(MANIFEST, &needs), (MODEL, "x"), (TOKENIZER, "{}")], "classifier of 2");
    }

    #[test]
    fn a_manifest_is_read_strictly() {
        let with = |from: &str, to: &str| GOOD.replace(from, to);
        let refused = |text: String, why: &str| check(&[(MANIFEST, &text), (MODEL, "x")], why);
        refused(with("tokens_max", "token_max"), "manifest.json: unknown field");
        refused(with(":16", ":0"), "manifest.json: tokens_max must be 1 to");
        refused(with(":64", ":65"), "manifest.json: vocabulary must be a power of two");
        refused(with(r#""a","b""#, r#""a","a""#), "manifest.json: labels");
        refused(with("classifier", "encoder"), "manifest.json: labels");
        refused("no".to_owned(), "manifest.json: expected");
    }

    #[test]
    fn what_is_no_tar_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let error = unpack(&[7u8; 2_000][..], dir.path()).unwrap_err().to_string();
        assert!(error.starts_with("not a tar archive"), "{error}");
        let error = unpack(&b""[..], dir.path()).unwrap_err().to_string();
        assert_eq!(error, "has no manifest.json");
    }
}

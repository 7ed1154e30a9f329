//! The embedded docrisk model: its bytes, its identity, and the last step from logits to probabilities.

use sha2::{Digest, Sha256};

use super::LoadError;

/// The model file itself; `load_static_slice` reads the weights in place.
pub(super) static BYTES: &[u8] =
    include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/models/docrisk.onnx"));

const MANIFEST: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/models/manifest.toml"));

/// What the model tells apart, in the order of its outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Label {
    Benign,
    PromptInjection,
    DataPoisoning,
    Exfiltration,
    PersonalData,
}

impl Label {
    pub(super) const ALL: [Label; LABELS] = [
        Label::Benign,
        Label::PromptInjection,
        Label::DataPoisoning,
        Label::Exfiltration,
        Label::PersonalData,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Label::Benign => "benign",
            Label::PromptInjection => "prompt_injection",
            Label::DataPoisoning => "data_poisoning",
            Label::Exfiltration => "exfiltration",
            Label::PersonalData => "pii",
        }
    }
}

pub(super) const LABELS: usize = 5;

/// The row of zeros after the last bucket: padding adds nothing to a sum.
pub(super) const PADDING_ID: i32 = 1 << 15;

/// Padded tokens of one run. More than [`super::batch::PADDED_TOKENS_DEFAULT`], because a token costs this model
/// one table row and no attention: the fixed cost of a run is what a batch has to share.
pub(super) const PADDED_TOKENS: usize = 4_096;

/// One unit of a logit. A power of two, so the product is exact.
const LOGIT_UNIT: f32 = 1.0 / 1024.0;

/// What decides a result, so every result and every cache key names it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ModelIdentity {
    pub name: String,
    pub version: String,
    /// Lowercase hex of the model file.
    pub sha256: String,
    /// `rten` or `ort`.
    pub engine: String,
    pub engine_version: String,
    pub precision: String,
}

impl ModelIdentity {
    pub(super) fn docrisk(sha256: String, engine: &str, engine_version: &str) -> ModelIdentity {
        ModelIdentity {
            name: manifest("name").to_owned(),
            version: manifest("version").to_owned(),
            sha256,
            engine: engine.to_owned(),
            engine_version: engine_version.to_owned(),
            precision: manifest("precision").to_owned(),
        }
    }
}

/// The digest of the embedded bytes, if it is the one of the manifest.
pub(super) fn checked_digest() -> Result<String, LoadError> {
    let found = hex(&Sha256::digest(BYTES));
    let expected = manifest("sha256");
    if found != expected {
        return Err(LoadError::ModelDigest { found, expected: expected.to_owned() });
    }
    Ok(found)
}

/// Softmax over logits, in plain arithmetic: the `exp` of the platform differs between C libraries, ours does not.
pub(super) fn probabilities(logits: &[f32]) -> [f32; LABELS] {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut scores = [0.0; LABELS];
    let mut total = 0.0;
    for (score, logit) in scores.iter_mut().zip(logits) {
        *score = exp((logit - top) * LOGIT_UNIT);
        total += *score;
    }
    scores.map(|score| score / total)
}

/// e^x for x <= 0: halves the argument until a short series is exact enough, then squares back.
fn exp(x: f32) -> f32 {
    const HALVINGS: i32 = 8;
    if x < -80.0 {
        return 0.0;
    }
    let small = f64::from(x) / f64::from(1 << HALVINGS);
    let tail = 1.0 + small / 4.0 * (1.0 + small / 5.0 * (1.0 + small / 6.0));
    let mut value = 1.0 + small * (1.0 + small / 2.0 * (1.0 + small / 3.0 * tail));
    for _ in 0..HALVINGS {
        value *= value;
    }
    value as f32
}

/// A value of the manifest. Written by the training script, one `key = "value"` per line.
fn manifest(key: &str) -> &'static str {
    let line = MANIFEST.lines().find(|line| line.split(" = ").next() == Some(key));
    line.and_then(|line| line.split('"').nth(1)).unwrap_or_default()
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let nibbles = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    nibbles.map(|nibble| char::from(DIGITS[usize::from(nibble)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_file_is_the_one_of_the_manifest() {
        let digest = checked_digest().unwrap();
        assert_eq!(digest.len(), 64);
        assert!(MANIFEST.contains(&format!("bytes = {}", BYTES.len())));
        let identity = ModelIdentity::docrisk(digest, "rten", "x");
        assert_eq!(
            (identity.name.as_str(), identity.precision.as_str()),
            ("docrisk", "weight-int8")
        );
        let labels = Label::ALL.map(|label| format!("\"{}\"", label.name())).join(", ");
        assert!(MANIFEST.contains(&format!("labels = [{labels}]")), "{MANIFEST}");
    }

    #[test]
    fn our_exp_follows_the_platform_to_six_digits() {
        for step in 0..800 {
            let x = step as f32 / -10.0;
            assert!((exp(x) - x.exp()).abs() <= 1e-6 * x.exp() + 1e-30, "at {x}");
        }
        assert_eq!(exp(0.0), 1.0);
    }

    #[test]
    fn probabilities_add_up_and_keep_the_order() {
        let scores = probabilities(&[0.0, 1024.0, -1024.0, 0.0, -90_000.0]);
        assert!((scores.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert!(scores[1] > scores[0] && scores[0] > scores[2] && scores[4] == 0.0);
    }
}

//! Scores documents: rules and the embedded docrisk model behind one [`Scanner`].
//!
//! Invariant: the verdict of a text depends on the text alone. Not on the batch it came in, not on the engine and
//! not on the machine, because every number the model adds up is a small integer and exact in `f32`.

pub mod batch;
pub mod bundle;
mod confusables;
mod decode;
mod detect;
mod engine;
pub mod evaluate;
mod features;
mod frame;
mod fusion;
mod model;
mod normal;
mod personal;
pub mod process;
mod repetition;
mod rules;
mod scan;
mod scorer;
#[cfg(test)]
mod tests;
mod tokens;
mod unicode;
pub mod verdict;
pub mod worker;

use std::{path::PathBuf, sync::Arc};

use engine::Engine;
pub use engine::EngineError;
pub use evaluate::{EVALUATION, EvaluateError, Report, evaluate};
pub use model::ModelIdentity;
use rules::Rules;
pub use verdict::{Action, QUARANTINE_AT, Severity, Signals, Span, Verdict};

/// Which engine the operator wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineChoice {
    /// ONNX Runtime when its library is found and works, otherwise rten.
    #[default]
    Auto,
    /// ONNX Runtime, or the load fails.
    Ort,
    /// The embedded pure Rust engine.
    Rten,
}

/// What a [`Scanner`] may be told at load.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where libonnxruntime is. First in the search, before `ORT_DYLIB_PATH` and `lib/` beside the binary.
    pub library: Option<PathBuf>,
    /// Bound of one micro-batch in padded tokens.
    pub padded_tokens: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options { library: None, padded_tokens: model::PADDED_TOKENS }
    }
}

/// Why a [`Scanner`] could not be made.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// No path of the search holds a file. Only with [`EngineChoice::Ort`].
    #[error("libonnxruntime was not found; searched: {searched}")]
    LibraryMissing { searched: String },
    /// A library is there, but it cannot serve. Only with [`EngineChoice::Ort`].
    #[error("libonnxruntime at {path} cannot be used: {reason}")]
    LibraryBroken { path: String, reason: String },
    /// The embedded model is not the one the manifest names: the build is damaged.
    #[error("model docrisk has sha256 {found}, but the manifest says {expected}")]
    ModelDigest { found: String, expected: String },
    /// The engine refused the model.
    #[error("{engine} cannot load model docrisk: {reason}")]
    Model { engine: &'static str, reason: String },
    /// A rule does not compile: the build is damaged.
    #[error("rule {rule} does not compile: {reason}")]
    Rule { rule: String, reason: String },
}

/// One inference slot: rules, model and engine, ready to run on one thread.
///
/// Sharing it between threads is safe and makes them take turns; [`Scanner::slot`] gives a second thread its own.
pub struct Scanner {
    rules: Arc<Rules>,
    engine: Box<dyn Engine>,
    identity: Arc<ModelIdentity>,
    padded_tokens: usize,
}

impl Scanner {
    /// Loads the embedded model, checks its digest, warms it once and logs which engine serves and why.
    pub fn load(choice: EngineChoice, options: Options) -> Result<Scanner, LoadError> {
        let sha256 = model::checked_digest()?;
        let rules = Arc::new(Rules::compile()?);
        let engine = engine::choose(choice, options.library.as_deref())?;
        let identity = Arc::new(ModelIdentity::docrisk(sha256, engine.name(), engine.version()));
        let padded_tokens = options.padded_tokens.max(1);
        let scanner = Scanner { rules, engine, identity, padded_tokens };
        scanner.warm()?;
        Ok(scanner)
    }

    /// Another slot over the same rules and weights: its own session or thread, nothing parsed twice where the
    /// engine allows it.
    pub fn slot(&self) -> Result<Scanner, LoadError> {
        Ok(Scanner {
            rules: Arc::clone(&self.rules),
            engine: self.engine.slot()?,
            identity: Arc::clone(&self.identity),
            padded_tokens: self.padded_tokens,
        })
    }

    /// One verdict per text, in the order given. Never panics on a text, whatever it holds.
    pub fn scan(&self, texts: &[&str]) -> Result<Vec<Verdict>, EngineError> {
        let examined = scan::examine(&self.rules, self.engine.as_ref(), self.padded_tokens, texts)?;
        Ok(examined.into_iter().map(|one| one.verdict).collect())
    }

    /// What every result must name, because it decides the result.
    #[must_use]
    pub fn identity(&self) -> &ModelIdentity {
        &self.identity
    }

    fn warm(&self) -> Result<(), LoadError> {
        let warmed = self.scan(&["the first run pays for what the others share"]);
        warmed.map(|_| ()).map_err(|error| LoadError::Model {
            engine: self.engine.name(),
            reason: error.to_string(),
        })
    }
}

impl std::fmt::Debug for Scanner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scanner").field("identity", &self.identity).finish_non_exhaustive()
    }
}

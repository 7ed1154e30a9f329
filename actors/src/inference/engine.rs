//! The engines that run a model, behind one trait, and the choice between them.

pub(super) mod graph;
mod library;
mod ort;
mod rten;

use std::path::Path;

use super::{EngineChoice, LoadError, model::LABELS};

/// A padded batch: `rows` windows of `width` ids, row after row.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) rows: usize,
    pub(super) width: usize,
    pub(super) ids: Vec<i32>,
    /// 1 for an id, 0 for padding.
    pub(super) mask: Vec<f32>,
    /// What the sum of each row is multiplied by: one over its smoothed number of real ids.
    pub(super) inverse_counts: Vec<f32>,
}

/// A run that failed. Nothing of the batch was scored; trying again is harmless.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The engine returned an error.
    #[error("{engine} failed: {reason}")]
    Run { engine: &'static str, reason: String },
    /// The engine answered in a shape that the model does not have.
    #[error("{engine} gave {found} numbers for {rows} rows")]
    Shape { engine: &'static str, rows: usize, found: usize },
}

/// Runs docrisk. One instance serves one thread at a time.
pub(super) trait Engine: Send + Sync {
    fn name(&self) -> &'static str;
    fn version(&self) -> &str;
    /// [`LABELS`] logits per row, in the order of the rows.
    fn run(&self, batch: &Batch) -> Result<Vec<f32>, EngineError>;
    /// An instance for another thread.
    fn slot(&self) -> Result<Box<dyn Engine>, LoadError>;
}

/// Makes the engine that was asked for. One log line says which it is and why.
pub(super) fn choose(
    choice: EngineChoice,
    configured: Option<&Path>,
) -> Result<Box<dyn Engine>, LoadError> {
    if choice == EngineChoice::Rten {
        return rten_because("it is configured");
    }
    match ort::OrtEngine::load(&library::candidates(configured)) {
        Ok(engine) => {
            tracing::info!(engine = "ort", version = engine.version(), library = %engine.library().display(), "inference engine");
            Ok(Box::new(engine))
        }
        Err(error) if choice == EngineChoice::Ort => Err(error),
        Err(error) => rten_because(&error.to_string()),
    }
}

fn rten_because(reason: &str) -> Result<Box<dyn Engine>, LoadError> {
    let engine = rten::RtenEngine::load()?;
    tracing::info!(engine = "rten", version = engine.version(), reason, "inference engine");
    Ok(Box::new(engine))
}

/// Refuses an answer of the wrong size, so that no row is read past it.
fn shaped(engine: &'static str, rows: usize, logits: Vec<f32>) -> Result<Vec<f32>, EngineError> {
    if logits.len() != rows * LABELS {
        return Err(EngineError::Shape { engine, rows, found: logits.len() });
    }
    Ok(logits)
}

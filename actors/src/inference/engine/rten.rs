//! The embedded engine: rten, pure Rust. All slots share the weights; each has its own one-thread pool.

mod graph;

use std::sync::Arc;

use rten::{Model, NodeId, RunOptions, ThreadPool};
use rten_tensor::{NdTensor, NdTensorView, prelude::*};

use super::{Batch, Engine, EngineError, shaped};
use crate::inference::{LoadError, model};

pub(super) use graph::OpenGraph;

const NAME: &str = "rten";
/// The crate does not tell its own version; the pin in the workspace manifest and a test keep this true.
const VERSION: &str = "0.27.0";

pub(super) struct RtenEngine {
    graph: Arc<Graph>,
    pool: Arc<ThreadPool>,
}

struct Graph {
    model: Model,
    ids: NodeId,
    mask: NodeId,
    inverse_count: NodeId,
    logits: NodeId,
}

impl RtenEngine {
    pub(super) fn load() -> Result<RtenEngine, LoadError> {
        let model = Model::load_static_slice(model::BYTES).map_err(|error| refused(&error))?;
        let node = |name: &str| model.node_id(name).map_err(|error| refused(&error));
        let (ids, mask) = (node("ids")?, node("mask")?);
        let (inverse_count, logits) = (node("inverse_count")?, node("logits")?);
        let graph = Arc::new(Graph { model, ids, mask, inverse_count, logits });
        Ok(RtenEngine { graph, pool: one_thread() })
    }
}

impl Engine for RtenEngine {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> &str {
        VERSION
    }

    fn run(&self, batch: &Batch) -> Result<Vec<f32>, EngineError> {
        let ids = NdTensorView::from_data([batch.rows, batch.width], batch.ids.as_slice());
        let mask = NdTensorView::from_data([batch.rows, 1, batch.width], batch.mask.as_slice());
        let counts = NdTensorView::from_data([batch.rows, 1, 1], batch.inverse_counts.as_slice());
        let inputs = vec![
            (self.graph.ids, ids.into()),
            (self.graph.mask, mask.into()),
            (self.graph.inverse_count, counts.into()),
        ];
        let options = RunOptions::default().with_thread_pool(Some(Arc::clone(&self.pool)));
        let outputs = self.graph.model.run_n(inputs, [self.graph.logits], Some(options));
        let [output] = outputs.map_err(|error| failed(&error))?;
        let logits: NdTensor<f32, 3> = output.try_into().map_err(|error| failed(&error))?;
        shaped(NAME, batch.rows, logits.to_vec())
    }

    fn slot(&self) -> Result<Box<dyn Engine>, LoadError> {
        Ok(Box::new(RtenEngine { graph: Arc::clone(&self.graph), pool: one_thread() }))
    }
}

/// Without a pool of its own a run would spread over all cores and disturb the other slots.
fn one_thread() -> Arc<ThreadPool> {
    Arc::new(ThreadPool::with_num_threads(1))
}

fn refused(error: &dyn std::fmt::Display) -> LoadError {
    LoadError::Model { engine: NAME, reason: error.to_string() }
}

fn failed(error: &dyn std::fmt::Display) -> EngineError {
    EngineError::Run { engine: NAME, reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_version_is_the_pinned_one() {
        let manifest = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"));
        assert!(manifest.contains(&format!("rten = \"={}\"", super::VERSION)));
    }
}

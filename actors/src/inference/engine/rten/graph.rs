//! A graph of the registry on rten, with no thread but the one of its pool.

use std::path::Path;
use std::sync::Arc;

use rten::{Model, NodeId, RunOptions, ThreadPool};
use rten_tensor::{NdTensorView, Tensor, prelude::*};

use super::{NAME, VERSION, one_thread};
use crate::inference::bundle::Manifest;
use crate::inference::engine::graph::{Graph, Rows};

pub(crate) struct OpenGraph {
    model: Model,
    ids: NodeId,
    mask: Option<NodeId>,
    types: Option<NodeId>,
    output: NodeId,
    pool: Arc<ThreadPool>,
}

impl OpenGraph {
    pub(crate) fn load(file: &Path, manifest: &Manifest) -> Result<Self, String> {
        let model = Model::load_file(file).map_err(|error| error.to_string())?;
        let node = |name: &protocol::Name| {
            model.node_id(name.as_str()).map_err(|_| format!("the graph has no {name}"))
        };
        let inputs = &manifest.inputs;
        let (ids, output) = (node(&inputs.ids)?, node(&manifest.output)?);
        let mask = inputs.mask.as_ref().map(node).transpose()?;
        let types = inputs.types.as_ref().map(node).transpose()?;
        Ok(Self { ids, mask, types, output, model, pool: one_thread() })
    }
}

impl Graph for OpenGraph {
    fn engine(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> String {
        VERSION.to_owned()
    }

    fn run(&mut self, rows: &Rows) -> Result<Vec<f32>, String> {
        let shape = [rows.rows, rows.width];
        let zeros = vec![0i32; if self.types.is_some() { rows.ids.len() } else { 0 }];
        let mut inputs = vec![(self.ids, NdTensorView::from_data(shape, &rows.ids[..]).into())];
        if let Some(mask) = self.mask {
            inputs.push((mask, NdTensorView::from_data(shape, &rows.mask[..]).into()));
        }
        if let Some(types) = self.types {
            inputs.push((types, NdTensorView::from_data(shape, &zeros[..]).into()));
        }
        let options = RunOptions::default().with_thread_pool(Some(Arc::clone(&self.pool)));
        let outputs = self.model.run_n(inputs, [self.output], Some(options));
        let [output] = outputs.map_err(|error| error.to_string())?;
        let numbers: Tensor<f32> = output.try_into().map_err(|error| format!("{error}"))?;
        Ok(numbers.to_vec())
    }
}

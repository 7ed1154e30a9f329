//! A graph of the registry on ONNX Runtime, in a session of one thread.

use std::path::Path;

use ort::session::{Session, SessionInputValue, builder::GraphOptimizationLevel};
use ort::value::{TensorElementType, TensorRef, ValueType};

use super::{NAME, Runtime};
use crate::inference::bundle::Manifest;
use crate::inference::engine::graph::{Graph, Rows};

pub(crate) struct OpenGraph {
    session: Session,
    version: String,
    ids: Input,
    mask: Option<Input>,
    types: Option<Input>,
    output: String,
}

/// An input of the graph.
struct Input {
    name: String,
    /// Ids are `int64` in most graphs.
    wide: bool,
}

impl OpenGraph {
    pub(crate) fn load(
        runtime: &Runtime,
        file: &Path,
        manifest: &Manifest,
    ) -> Result<Self, String> {
        let session = session(runtime, file).map_err(|error| error.to_string())?;
        let input = |name: &protocol::Name| input(&session, name.as_str());
        let ids = input(&manifest.inputs.ids)?;
        let mask = manifest.inputs.mask.as_ref().map(input).transpose()?;
        let types = manifest.inputs.types.as_ref().map(input).transpose()?;
        let output = manifest.output.to_string();
        if !session.outputs().iter().any(|known| known.name() == output) {
            return Err(format!("the graph has no output {output}"));
        }
        Ok(Self { ids, mask, types, output, version: runtime.version.to_string(), session })
    }
}

impl Graph for OpenGraph {
    fn engine(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> String {
        self.version.clone()
    }

    fn run(&mut self, rows: &Rows) -> Result<Vec<f32>, String> {
        let zeros = vec![0i32; if self.types.is_some() { rows.ids.len() } else { 0 }];
        let given = [
            Some((&self.ids, &rows.ids)),
            self.mask.as_ref().map(|mask| (mask, &rows.mask)),
            self.types.as_ref().map(|types| (types, &zeros)),
        ];
        let given: Vec<_> = given.into_iter().flatten().collect();
        let widen = |(input, values): &(&Input, &Vec<i32>)| -> Vec<i64> {
            if input.wide { values.iter().copied().map(i64::from).collect() } else { Vec::new() }
        };
        let wide: Vec<Vec<i64>> = given.iter().map(widen).collect();
        let shape = [rows.rows, rows.width];
        let mut fed: Vec<(&str, SessionInputValue<'_>)> = Vec::new();
        for ((input, values), wide) in given.iter().zip(&wide) {
            let value: SessionInputValue<'_> = if input.wide {
                TensorRef::from_array_view((shape, wide.as_slice())).map_err(text)?.into()
            } else {
                TensorRef::from_array_view((shape, values.as_slice())).map_err(text)?.into()
            };
            fed.push((input.name.as_str(), value));
        }
        let outputs = self.session.run(fed).map_err(text)?;
        let (_, numbers) =
            outputs[self.output.as_str()].try_extract_tensor::<f32>().map_err(text)?;
        Ok(numbers.to_vec())
    }
}

fn text(error: ort::Error) -> String {
    error.to_string()
}

fn input(session: &Session, name: &str) -> Result<Input, String> {
    let found = session.inputs().iter().find(|known| known.name() == name);
    let found = found.ok_or_else(|| format!("the graph has no input {name}"))?;
    let wide = match found.dtype() {
        ValueType::Tensor { ty: TensorElementType::Int64, .. } => true,
        ValueType::Tensor { ty: TensorElementType::Int32, .. } => false,
        other @ (ValueType::Tensor { .. }
        | ValueType::Sequence(_)
        | ValueType::Map { .. }
        | ValueType::Optional(_)) => {
            return Err(format!("input {name} is {other}, not a tensor of integers"));
        }
    };
    Ok(Input { name: name.to_owned(), wide })
}

/// As for the built-in model, with every optimisation: this graph need not be exact in whole numbers.
fn session(runtime: &Runtime, file: &Path) -> ort::Result<Session> {
    Session::builder(&runtime.environment)?
        .with_intra_threads(1)?
        .with_inter_threads(1)?
        .with_parallel_execution(false)?
        .with_optimization_level(GraphOptimizationLevel::All)?
        .commit_from_file(file)
}

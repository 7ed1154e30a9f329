//! Graphs of the registry's models behind one trait: rows of ids in, rows of numbers out.

use std::path::Path;

use super::{library, ort, rten};
use crate::inference::EngineChoice;
use crate::inference::bundle::Manifest;

/// A padded batch: `rows` documents of `width` ids, row after row.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    pub(crate) rows: usize,
    pub(crate) width: usize,
    pub(crate) ids: Vec<i32>,
    /// 1 for an id, 0 for padding.
    pub(crate) mask: Vec<i32>,
}

/// A graph that is loaded.
pub(crate) trait Graph {
    fn engine(&self) -> &'static str;
    fn version(&self) -> String;
    /// The numbers of all rows, row after row; as many for each.
    fn run(&mut self, rows: &Rows) -> Result<Vec<f32>, String>;
}

/// Loads a graph by the engine that was asked for.
pub(crate) fn open(
    file: &Path,
    manifest: &Manifest,
    choice: EngineChoice,
    configured: Option<&Path>,
) -> Result<Box<dyn Graph>, String> {
    let by_rten = || Ok(Box::new(rten::OpenGraph::load(file, manifest)?) as Box<dyn Graph>);
    if choice == EngineChoice::Rten {
        return by_rten();
    }
    match ort::runtime(&library::candidates(configured)) {
        Ok(runtime) => Ok(Box::new(ort::OpenGraph::load(&runtime, file, manifest)?)),
        Err(error) if choice == EngineChoice::Ort => Err(error.to_string()),
        Err(_) => by_rten(),
    }
}

//! ONNX Runtime, loaded at run time. Invariant: no call into `ort` happens before `init_from` has succeeded, because
//! the implicit initialisation panics when the library is missing.

mod graph;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use ort::{
    environment::Environment,
    inputs,
    session::{Session, builder::GraphOptimizationLevel},
    value::TensorRef,
};

use super::{Batch, Engine, EngineError, shaped};
use crate::inference::{LoadError, model};

pub(super) use graph::OpenGraph;

const NAME: &str = "ort";

/// The one environment of the process; ONNX Runtime allows no second, and a library cannot be unloaded.
static LOADED: Mutex<Option<Runtime>> = Mutex::new(None);

#[derive(Clone)]
pub(super) struct Runtime {
    environment: Environment,
    path: PathBuf,
    version: Arc<str>,
}

pub(super) struct OrtEngine {
    runtime: Runtime,
    session: Mutex<Session>,
}

impl OrtEngine {
    /// The first candidate that exists and loads. The error of the last one that exists otherwise.
    pub(super) fn load(candidates: &[PathBuf]) -> Result<OrtEngine, LoadError> {
        OrtEngine::open(runtime(candidates)?)
    }

    pub(super) fn library(&self) -> &Path {
        &self.runtime.path
    }

    fn open(runtime: Runtime) -> Result<OrtEngine, LoadError> {
        let session = session(&runtime.environment)
            .map_err(|error| LoadError::Model { engine: NAME, reason: error.to_string() })?;
        Ok(OrtEngine { runtime, session: Mutex::new(session) })
    }
}

impl Engine for OrtEngine {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> &str {
        &self.runtime.version
    }

    fn run(&self, batch: &Batch) -> Result<Vec<f32>, EngineError> {
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let logits = run(&mut session, batch)
            .map_err(|error| EngineError::Run { engine: NAME, reason: error.to_string() })?;
        shaped(NAME, batch.rows, logits)
    }

    fn slot(&self) -> Result<Box<dyn Engine>, LoadError> {
        Ok(Box::new(OrtEngine::open(self.runtime.clone())?))
    }
}

fn run(session: &mut Session, batch: &Batch) -> ort::Result<Vec<f32>> {
    let ids = TensorRef::from_array_view(([batch.rows, batch.width], batch.ids.as_slice()))?;
    let mask = TensorRef::from_array_view(([batch.rows, 1, batch.width], batch.mask.as_slice()))?;
    let counts = TensorRef::from_array_view(([batch.rows, 1, 1], batch.inverse_counts.as_slice()))?;
    let outputs = session.run(inputs!["ids" => ids, "mask" => mask, "inverse_count" => counts])?;
    let (_, logits) = outputs["logits"].try_extract_tensor::<f32>()?;
    Ok(logits.to_vec())
}

/// One thread, no pool of its own: under contention ORT's spinning threads cost more than half the throughput.
fn session(environment: &Environment) -> ort::Result<Session> {
    Session::builder(environment)?
        .with_intra_threads(1)?
        .with_inter_threads(1)?
        .with_parallel_execution(false)?
        .with_optimization_level(GraphOptimizationLevel::Level1)?
        .commit_from_memory(model::BYTES)
}

pub(super) fn runtime(candidates: &[PathBuf]) -> Result<Runtime, LoadError> {
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    let mut last = LoadError::LibraryMissing { searched: listed(candidates) };
    for path in candidates.iter().filter(|path| path.is_file()) {
        if let Some(runtime) = loaded.as_ref().filter(|runtime| runtime.path == *path) {
            return Ok(runtime.clone());
        }
        match initialise(path) {
            Ok(runtime) => return Ok(loaded.insert(runtime).clone()),
            Err(reason) => {
                last = LoadError::LibraryBroken { path: path.display().to_string(), reason };
            }
        }
    }
    Err(last)
}

fn initialise(path: &Path) -> Result<Runtime, String> {
    let builder = ort::init_from(path).map_err(|error| error.to_string())?;
    let logger = Arc::new(|_, category: &str, _: &str, _: &str, message: &str| {
        tracing::debug!(category, message, "onnxruntime");
    });
    let built = builder.with_name("skep").with_telemetry(false).with_logger(logger).build();
    let environment = built.map_err(|error| error.to_string())?;
    let version = version(path, ort::info()).into();
    Ok(Runtime { environment, path: path.to_path_buf(), version })
}

/// From the file name (`libonnxruntime.so.1.31.1`), because wheels are built from a detached head; otherwise the
/// release branch or the commit out of `ORT Build Info: git-branch=rel-1.31.1, git-commit-id=…`.
fn version(path: &Path, info: &str) -> String {
    let real = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let name = real.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let field = |key: &str| info.split(key).nth(1).and_then(|rest| rest.split(',').next());
    if let Some((_, version)) = name.split_once(".so.") {
        return version.to_owned();
    }
    match field("git-branch=").and_then(|branch| branch.strip_prefix("rel-")) {
        Some(release) => release.to_owned(),
        None => format!("commit {}", field("git-commit-id=").unwrap_or("unknown")),
    }
}

fn listed(paths: &[PathBuf]) -> String {
    let names: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_names_every_path_searched() {
        let paths = [PathBuf::from("/nowhere/a.so"), PathBuf::from("/nowhere/b.so")];
        let error = OrtEngine::load(&paths).err().map(|error| error.to_string());
        assert_eq!(
            error.as_deref(),
            Some("libonnxruntime was not found; searched: /nowhere/a.so, /nowhere/b.so")
        );
    }

    #[test]
    fn the_version_is_that_of_the_file_or_of_the_build() {
        let plain = Path::new("/nowhere/libonnxruntime.so");
        let release =
            "ORT Build Info: git-branch=rel-1.31.1, git-commit-id=1f2e, build type=Release";
        let wheel = "ORT Build Info: git-branch=HEAD, git-commit-id=1f2e, build type=Release";
        assert_eq!(version(plain, release), "1.31.1");
        assert_eq!(version(plain, wheel), "commit 1f2e");
        assert_eq!(version(Path::new("/nowhere/libonnxruntime.so.1.30.0"), wheel), "1.30.0");
    }
}

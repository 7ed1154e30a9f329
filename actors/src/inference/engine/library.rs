//! Where libonnxruntime may be: configured path, then `ORT_DYLIB_PATH`, then `lib/` beside the binary.

use std::{
    env,
    path::{Path, PathBuf},
};

const VARIABLE: &str = "ORT_DYLIB_PATH";
const NAMES: [&str; 3] = ["libonnxruntime.so", "libonnxruntime.dylib", "onnxruntime.dll"];

/// The paths to try, in order. A configured path or variable that names a folder stands for the library inside.
pub(super) fn candidates(configured: Option<&Path>) -> Vec<PathBuf> {
    let variable = env::var_os(VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from);
    let beside = env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("lib")));
    let named = configured.map(Path::to_path_buf).into_iter().chain(variable);
    let mut paths: Vec<PathBuf> = named.map(|path| in_folder(&path).unwrap_or(path)).collect();
    paths.extend(beside.map(|folder| in_folder(&folder).unwrap_or_else(|| folder.join(NAMES[0]))));
    paths
}

/// The library in a folder; versioned names (`libonnxruntime.so.1.31.1`) count, the highest name wins.
fn in_folder(folder: &Path) -> Option<PathBuf> {
    let entries = folder.read_dir().ok()?;
    let files = entries.flatten().map(|entry| entry.path());
    files.filter(|path| is_library(path)).max()
}

fn is_library(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    NAMES.iter().any(|known| name == *known || name.starts_with(&format!("{known}.")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configured_path_comes_first_and_a_folder_stands_for_its_library() {
        let folder = tempfile::tempdir().unwrap();
        let library = folder.path().join("libonnxruntime.so.1.31.1");
        std::fs::write(&library, b"").unwrap();
        std::fs::write(folder.path().join("libother.so"), b"").unwrap();
        assert_eq!(candidates(Some(folder.path())).first(), Some(&library));
        assert_eq!(candidates(Some(&library)).first(), Some(&library));
        let missing = folder.path().join("nothing.so");
        assert_eq!(candidates(Some(&missing)).first(), Some(&missing));
    }
}

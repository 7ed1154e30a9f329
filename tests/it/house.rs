//! The house itself: who may name which library, where things live, how long files are. What Cargo
//! cannot see and a reviewer forgets. Invariant: nothing here starts a process or opens a socket.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

/// Every crate, by folder.
const CRATES: [&str; 8] =
    ["protocol", "protocol/client", "raft", "actors", "node", "tests", "chaos", "benches"];

/// Libraries that a crate must not reach for: its job ends before theirs begins.
const KEPT_OUT: [(&str, &[&str]); 5] = [
    (
        "protocol",
        &["tokio", "axum", "hyper", "reqwest", "ractor", "openraft", "raft", "actors", "node"],
    ),
    ("protocol/client", &["raft", "actors", "node", "axum", "ractor", "openraft"]),
    ("raft", &["axum", "hyper", "ractor", "ractor_cluster", "object_store", "ort", "rten", "sled"]),
    ("actors", &["axum", "hyper", "openraft"]),
    ("node", &["openraft", "ractor", "ractor_cluster", "ort", "rten", "sled", "object_store"]),
];

/// Libraries that one place alone may name in its source, as a crate or a file.
const NAMED_ONCE: [(&str, &str); 8] = [
    ("bincode", "protocol/src/codec/v1.rs"),
    ("openraft", "raft/"),
    ("ractor", "actors/"),
    ("ractor_cluster", "actors/"),
    ("object_store", "actors/"),
    ("ort", "actors/"),
    ("rten", "actors/"),
    ("sled", "actors/src/cache/disk.rs"),
];

/// Their minor releases change behaviour or bytes, so a bump is a decision.
const PINNED: [&str; 8] =
    ["bincode", "openraft", "ort", "ractor", "ractor_cluster", "rten", "rten-tensor", "sled"];

/// What `ls` shows at the top. Tool settings are dotfiles.
const TOP: [&str; 16] = [
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "SECURITY.md",
    "actors",
    "benches",
    "chaos",
    "deploy",
    "node",
    "protocol",
    "raft",
    "tests",
];

const LINES_MAX: usize = 500;
/// Files that may be longer, each with the reason.
const LONG: [(&str, &str); 0] = [];

#[test]
fn every_crate_keeps_to_its_job() {
    let mut reached = Vec::new();
    for (name, kept_out) in KEPT_OUT {
        let named = dependencies(&manifest(name));
        let past = kept_out.iter().filter(|library| named.contains(**library));
        reached.extend(past.map(|library| format!("{name} keeps {library} out")));
    }
    none(&reached);
}

#[test]
fn a_library_is_named_in_one_place() {
    let mut reached = Vec::new();
    for (path, text) in sources() {
        for (library, home) in NAMED_ONCE {
            if !path.starts_with(home) && names(&text, library) {
                reached.push(format!("{path} names {library}, which stays in {home}"));
            }
        }
    }
    none(&reached);
}

#[test]
fn the_generics_of_openraft_have_one_file() {
    let declares = |text: &str| {
        let macro_call = ["declare_raft", "_types!"].concat();
        text.contains(&macro_call) || text.contains(&["RaftType", "Config for"].concat())
    };
    let files: Vec<String> =
        sources().into_iter().filter(|(_, text)| declares(text)).map(|(path, _)| path).collect();
    assert_eq!(files, ["raft/src/types.rs"]);
}

#[test]
fn what_changes_behaviour_in_a_minor_release_is_pinned_exactly() {
    let root = manifest("");
    let mut loose = Vec::new();
    for library in PINNED {
        match requirement(&root["workspace"]["dependencies"][library]) {
            Some(version) if version.starts_with('=') => {}
            version => loose.push(format!("{library} is {version:?}, not pinned with =")),
        }
    }
    // Its defaults download a library while building.
    let ort = &root["workspace"]["dependencies"]["ort"];
    if ort.get("default-features").and_then(Value::as_bool) != Some(false) {
        loose.push("ort has its default features".to_owned());
    }
    for name in CRATES {
        for (library, value) in all_dependencies(&manifest(name)) {
            if PINNED.contains(&library.as_str()) && !is_inherited(&value) {
                loose.push(format!("{name} has a version of {library} of its own"));
            }
        }
    }
    none(&loose);
}

#[test]
fn every_crate_has_the_lints_of_the_workspace() {
    let lax = CRATES.into_iter().filter(|name| {
        let manifest = manifest(name);
        let inherits = manifest.get("lints").and_then(|lints| lints.get("workspace"));
        inherits.and_then(Value::as_bool) != Some(true)
    });
    none(&lax.map(|name| format!("{name} lacks [lints] workspace = true")).collect::<Vec<_>>());
}

#[test]
fn every_crate_of_the_workspace_is_known_here() {
    let root = manifest("");
    let members = root["workspace"]["members"].as_array().unwrap();
    let members: BTreeSet<&str> = members.iter().filter_map(Value::as_str).collect();
    assert_eq!(members, CRATES.into_iter().collect());
}

#[test]
fn the_top_level_is_fixed() {
    let mut strangers = Vec::new();
    for entry in fs::read_dir(root()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let left_by_builds = name == "target";
        let known = TOP.contains(&name.as_str()) || left_by_builds;
        if !known && !name.starts_with('.') {
            strangers.push(format!("{name} does not belong at the top level"));
        }
    }
    none(&strangers);
}

#[test]
fn module_files_are_called_by_their_name() {
    let nameless = sources().into_iter().filter(|(path, _)| path.ends_with("/mod.rs"));
    none(&nameless.map(|(path, _)| format!("{path} is a mod.rs")).collect::<Vec<_>>());
}

#[test]
fn files_are_short_or_say_why() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let lines = text.lines().count();
        let excused = LONG.iter().find(|(long, _)| *long == path);
        match excused {
            None if lines > LINES_MAX => {
                wrong.push(format!("{path} has {lines} lines, more than {LINES_MAX}"));
            }
            Some((_, why)) if lines <= LINES_MAX => {
                wrong.push(format!("{path} needs no excuse any more ({why})"));
            }
            None | Some(_) => {}
        }
    }
    none(&wrong);
}

#[test]
fn every_allowance_has_a_reason() {
    let mut silent = Vec::new();
    for (path, text) in sources() {
        for (at, attribute) in allowances(&text) {
            if !attribute.contains("reason") {
                let line = text[..at].lines().count();
                silent.push(format!("{path}:{line}: {attribute} without a reason"));
            }
        }
    }
    none(&silent);
}

/// Fails with all of them at once, so that one run shows what there is to do.
fn none(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The manifest of a crate; of the workspace without a name.
fn manifest(name: &str) -> Table {
    let path = root().join(name).join("Cargo.toml");
    read(&path).parse().expect("a manifest is TOML")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn dependencies(manifest: &Table) -> BTreeSet<String> {
    all_dependencies(manifest).into_iter().map(|(name, _)| name).collect()
}

/// Those of every kind and target, under the name of the package.
fn all_dependencies(manifest: &Table) -> Vec<(String, Value)> {
    let mut tables: Vec<&Table> = vec![manifest];
    if let Some(Value::Table(targets)) = manifest.get("target") {
        tables.extend(targets.values().filter_map(Value::as_table));
    }
    let mut found = Vec::new();
    for table in tables {
        for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let Some(Value::Table(named)) = table.get(kind) else { continue };
            for (name, value) in named {
                let package = value.get("package").and_then(Value::as_str).unwrap_or(name);
                found.push((package.to_owned(), value.clone()));
            }
        }
    }
    found
}

fn requirement(dependency: &Value) -> Option<&str> {
    dependency.as_str().or_else(|| dependency.get("version")?.as_str())
}

fn is_inherited(dependency: &Value) -> bool {
    dependency.get("workspace").and_then(Value::as_bool) == Some(true)
}

/// Every Rust file of every crate: its path from the root, and its text.
fn sources() -> Vec<(String, String)> {
    let root = root();
    let mut files = Vec::new();
    for name in CRATES.into_iter().filter(|name| !name.contains('/')) {
        collect(&root.join(name), &mut files);
    }
    files.sort();
    let relative = |path: &Path| {
        let path = path.strip_prefix(&root).expect("found below the root");
        path.to_str().expect("names are ASCII").to_owned()
    };
    files.iter().map(|path| (relative(path), read(path))).collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of a crate") {
        let path = entry.expect("its entries can be read").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Whether code names the library: `library::` outside of comments and strings, and not as the end
/// of a longer name or path.
fn names(text: &str, library: &str) -> bool {
    let path = format!("{library}::");
    let mut code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.any(|line| {
        line.match_indices(&path).any(|(at, _)| {
            let before = &line[..at];
            let in_string = before.matches('"').count() % 2 == 1;
            let goes_on =
                before.ends_with(|last: char| last.is_alphanumeric() || "_:".contains(last));
            !in_string && !goes_on
        })
    })
}

/// The attributes that silence a lint, whole, with where they stand.
fn allowances(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices('#') {
        let rest = &text[at..];
        let inner = rest.trim_start_matches(['#', '!', '[']);
        let silences = inner.starts_with("allow(") || inner.starts_with("expect(");
        let opens = rest.starts_with("#[") || rest.starts_with("#![");
        if let Some(end) = rest.find(")]").filter(|_| silences && opens) {
            found.push((at, &rest[..end + 2]));
        }
    }
    found
}

//! Places where a process can be told to die, so that a test can look at what a crash there leaves.
//!
//! `SKEP_FAILPOINTS=name=abort,other=abort` in the environment of a node; a name that is not one is
//! never hit. In a process without the variable a place costs one relaxed load.

use std::collections::BTreeSet;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// The variable that names the places.
pub const VARIABLE: &str = "SKEP_FAILPOINTS";

static ARMED: AtomicBool = AtomicBool::new(false);
static NAMES: OnceLock<BTreeSet<String>> = OnceLock::new();

/// Arms the places that a list names; says which it understood.
pub fn arm(list: &str) -> Vec<String> {
    let pairs = list.split(',').filter_map(|pair| pair.trim().strip_suffix("=abort"));
    let names: BTreeSet<String> = pairs.map(str::to_owned).collect();
    let understood = names.iter().cloned().collect();
    let any = !names.is_empty();
    // Set once, at boot.
    let _ = NAMES.set(names);
    ARMED.store(any, Ordering::Release);
    understood
}

/// The process ends here, as by SIGKILL, if it was told to.
pub fn hit(name: &str) {
    if ARMED.load(Ordering::Relaxed) && NAMES.get().is_some_and(|names| names.contains(name)) {
        tracing::warn!(name, "failpoint");
        std::process::abort();
    }
}

//! Wall clocks that can be set, one per node, by libfaketime. Invariant: only the time of day moves;
//! the clocks that measure what has passed (`CLOCK_MONOTONIC`, `CLOCK_BOOTTIME`) are left alone.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use node::cli::launch::{Cluster, Probe, until};
use protocol::Time;

/// Where it may be, besides a folder of the architecture below `/usr/lib`.
const FOLDERS: [&str; 3] = ["/usr/lib/faketime", "/usr/lib64/faketime", "/usr/local/lib/faketime"];
const LIBRARY: &str = "libfaketimeMT.so.1";
/// A node sees a change of its clock within the second that the library keeps what it has read.
const SEEN_WITHIN: Duration = Duration::from_secs(10);
/// Nobody's clock is read more exactly than this here.
const EXACT_S: i64 = 60;

/// The clocks of the nodes of one cluster.
#[derive(Debug)]
pub(crate) struct Walls {
    library: PathBuf,
    directory: PathBuf,
}

impl Walls {
    /// Clocks that are right, for nodes that live in `directory`.
    pub(crate) fn hang(library: PathBuf, directory: &Path, nodes: usize) -> Result<Walls> {
        let walls = Walls { library, directory: directory.to_owned() };
        for node in 0..nodes {
            walls.write(node, 0)?;
        }
        Ok(walls)
    }

    /// What makes a node look at its clock.
    pub(crate) fn variables(&self, node: usize) -> Vec<(String, String)> {
        let text = |path: &Path| path.display().to_string();
        let variables = [
            ("LD_PRELOAD", text(&self.library)),
            ("FAKETIME_TIMESTAMP_FILE", text(&self.file(node))),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("FAKETIME_CACHE_DURATION", "1".to_owned()),
            // Times of files are nobody's clock.
            ("NO_FAKE_STAT", "1".to_owned()),
        ];
        variables.map(|(name, value)| (name.to_owned(), value)).into()
    }

    /// Sets the clock of a node so many seconds beside the right time; returns when it shows that.
    pub(crate) async fn set(&self, cluster: &Cluster, node: usize, offset_s: i64) -> Result<()> {
        self.write(node, offset_s)?;
        let admin = cluster.admin_of(node)?;
        let what = format!("a clock of node {node} that is {offset_s} s ahead");
        until(&what, SEEN_WITHIN, async || {
            // The node that is asked counts from its own clock.
            let expires_at = admin.create_join_token(EXACT_S as u32).await?.body.expires_at;
            let shown = told(offset_s) <= expires_at && expires_at <= told(offset_s + 2 * EXACT_S);
            Ok(if shown { Probe::Done(()) } else { Probe::NotYet(expires_at) })
        })
        .await?;
        Ok(())
    }

    fn write(&self, node: usize, offset_s: i64) -> Result<()> {
        // Renamed into place: the node may read at any moment.
        let file = self.file(node);
        let beside = file.with_extension("new");
        std::fs::write(&beside, format!("{offset_s:+}\n"))?;
        Ok(std::fs::rename(beside, file)?)
    }

    fn file(&self, node: usize) -> PathBuf {
        self.directory.join(format!("wall-{node}"))
    }
}

/// The right time and so many seconds, as the API writes it: texts compare as the times do.
pub(crate) fn told(offset_s: i64) -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time((since.as_millis() as u64).saturating_add_signed(offset_s * 1000)).to_string()
}

/// The library, if it is installed.
pub(crate) fn library() -> Result<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let by_architecture = folders.map(|folder| folder.path().join("faketime"));
    let all = by_architecture.chain(FOLDERS.map(PathBuf::from));
    let found = all.map(|folder| folder.join(LIBRARY)).find(|library| library.exists());
    found.with_context(|| format!("{LIBRARY} is not installed (Debian: package faketime)"))
}

//! The command `skep cluster restore`, as a process.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::process::Command;

/// How a command ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) code: Option<i32>,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

pub(super) async fn restore(from: &Path, backup: Option<&str>, data: &Path) -> Result<Ended> {
    let mut command = Command::new(tests::binary()?);
    command.args(["cluster", "restore", "--output", "json", "--from"]).arg(from);
    command.arg("--data").arg(data).stdin(Stdio::null());
    if let Some(backup) = backup {
        command.args(["--backup", backup]);
    }
    let output = command.output().await.context("skep cluster restore")?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    Ok(Ended { code: output.status.code(), stdout, stderr })
}

/// One that must succeed; what it says.
pub(super) async fn restored(from: &Path, backup: Option<&str>, data: &Path) -> Result<Value> {
    let ended = restore(from, backup, data).await?;
    ensure!(ended.code == Some(0), "{ended:?}");
    Ok(serde_json::from_str(&ended.stdout)?)
}

//! The audit of a tenant after a fault: its export is whole and holds what was acknowledged, and no
//! export that was tampered with passes for it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value;
use tokio::process::Command;

use crate::live::{self, Live};
use crate::scenarios::Guest;

/// Bytes that are flipped, each in an export of its own.
const FLIPS: u32 = 8;

/// Judges exports with `skep audit verify`.
struct Judge {
    file: PathBuf,
    trust: PathBuf,
}

/// An export taken apart.
struct Export<'a> {
    records: Vec<&'a str>,
    checkpoint: &'a str,
}

/// The export verifies and holds each of `requests` once; with a flipped byte or without its last
/// record it does not.
pub(crate) async fn verified(
    live: &Live,
    guest: &Guest,
    requests: &[String],
    seed: u64,
) -> Result<String> {
    let text = guest.client(live)?.export_audit().await?;
    let judge = Judge::sit(live, guest).await?;
    let verdict = judge.hear(&text).await?;
    ensure!(verdict.0 == Some(0) && verdict.1.contains("signed by"), "audit: {verdict:?}");
    let export = Export::of(&text)?;
    let missing = export.missing(requests)?;
    ensure!(
        missing.is_empty(),
        "{} acknowledged requests are not in the audit once: {missing:?}",
        missing.len()
    );

    let mut dice = StdRng::seed_from_u64(seed);
    for _ in 0..FLIPS {
        let (seq, flipped) = export.flipped(&mut dice);
        judge.ensure_found(&flipped, seq, &["changed", "inserted"]).await?;
    }
    judge.ensure_found(&export.shortened(), export.records.len(), &["truncated"]).await?;
    Ok(format!(
        "{} audit records verify with {} acknowledged requests in them, {FLIPS} flipped bytes and a removed \
         record were found",
        export.records.len(),
        requests.len(),
    ))
}

impl<'a> Export<'a> {
    fn of(text: &'a str) -> Result<Export<'a>> {
        let mut records: Vec<_> = text.lines().collect();
        let checkpoint = records.pop().context("an empty export")?;
        ensure!(!records.is_empty(), "an audit without records");
        Ok(Export { records, checkpoint })
    }

    /// Those that are not there exactly once.
    fn missing<'b>(&self, requests: &'b [String]) -> Result<Vec<&'b String>> {
        let mut found: BTreeMap<String, u32> = BTreeMap::new();
        for record in &self.records {
            let record: Value = serde_json::from_str(record)?;
            let request = record["request_id"].as_str().context("a record without a request")?;
            *found.entry(request.to_owned()).or_default() += 1;
        }
        Ok(requests.iter().filter(|request| found.get(*request) != Some(&1)).collect())
    }

    /// With one bit of a random byte of a record turned over; and the number of the record.
    fn flipped(&self, dice: &mut StdRng) -> (usize, Vec<u8>) {
        let number = dice.random_range(0..self.records.len());
        let before: usize = self.records[..number].iter().map(|line| line.len() + 1).sum();
        let at = before + dice.random_range(0..self.records[number].len());
        let mut bytes = self.told(self.records.len());
        // The lowest bit: it makes no line break of anything that JSON has.
        bytes[at] ^= 1;
        (number + 1, bytes)
    }

    /// Without the last record.
    fn shortened(&self) -> Vec<u8> {
        self.told(self.records.len() - 1)
    }

    fn told(&self, records: usize) -> Vec<u8> {
        let lines = self.records[..records].iter().chain([&self.checkpoint]);
        lines.flat_map(|line| line.bytes().chain(*b"\n")).collect()
    }
}

impl Judge {
    async fn sit(live: &Live, guest: &Guest) -> Result<Judge> {
        let folder = live.directory().join("audit");
        std::fs::create_dir_all(&folder)?;
        let trust = folder.join("trust.json");
        std::fs::write(&trust, live.cluster.admin()?.trust().await?)?;
        Ok(Judge { file: folder.join(format!("{}.ndjson", guest.id)), trust })
    }

    async fn hear(&self, export: impl AsRef<[u8]>) -> Result<(Option<i32>, String)> {
        std::fs::write(&self.file, export)?;
        let mut command = Command::new(live::binary()?);
        command.args(["audit", "verify"]).arg(&self.file).arg("--trust").arg(&self.trust);
        let output = command.output().await?;
        let said = [output.stdout, output.stderr].concat();
        Ok((output.status.code(), String::from_utf8_lossy(&said).trim().to_owned()))
    }

    /// What is wrong is found where it is.
    async fn ensure_found(&self, export: &[u8], seq: usize, faults: &[&str]) -> Result<()> {
        let (code, said) = self.hear(export).await?;
        let found = faults.iter().any(|fault| said.contains(&format!("seq {seq}: {fault}")));
        ensure!(
            code == Some(1) && found,
            "{} is wrong at seq {seq} ({faults:?}), and found was {code:?} {said}",
            self.file.display()
        );
        Ok(())
    }
}

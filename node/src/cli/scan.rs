//! `skep scan`: scan files or stdin and say what is dangerous in them.

use client::scan::{Document, Finding};

use super::failure::Failure;
use super::output::Output;
use super::{Context, input};

/// What the service takes in one request.
const DOCUMENTS_MAX: usize = 1_000;
/// Well below the 64 MiB that the service takes, escapes included.
const BATCH_BYTES_MAX: usize = 8 << 20;
const REASONS_SHOWN: usize = 3;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Files to scan, `-` for stdin; `.ndjson` and `.jsonl` hold one document per line
    #[arg(required = true, value_name = "FILE")]
    files: Vec<String>,
    /// Take every input as one JSON document per line: {"id", "content"}
    #[arg(long, env = "SKEP_NDJSON")]
    ndjson: bool,
    /// Exit with 1 when a document is quarantined
    #[arg(long, env = "SKEP_FAIL_ON_QUARANTINE")]
    fail_on_quarantine: bool,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let documents = input::documents(&args.files, args.ndjson)?;
    let client = context.client()?;
    let bar = context.output.bar(documents.len() as u64, "scanning");
    let mut findings = Vec::with_capacity(documents.len());
    for batch in batches(&documents) {
        let key = client::fresh_key();
        let answer = client.scan(batch, Some(&key)).await?;
        context.output.detail(&format!("{:?}", answer.meta));
        findings.extend(answer.body.results);
        bar.inc(batch.len() as u64);
    }
    bar.finish_and_clear();
    print(&findings, context.output)?;
    let quarantined = findings.iter().filter(|finding| finding.quarantine).count();
    if args.fail_on_quarantine && quarantined > 0 {
        let total = findings.len();
        return Err(Failure::failed(format!("{quarantined} of {total} documents are dangerous")));
    }
    Ok(())
}

fn batches(documents: &[Document]) -> Vec<&[Document]> {
    let mut batches = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (i, document) in documents.iter().enumerate() {
        let full = i - start == DOCUMENTS_MAX || bytes + document.content.len() > BATCH_BYTES_MAX;
        if full && i > start {
            batches.push(&documents[start..i]);
            (start, bytes) = (i, 0);
        }
        bytes += document.content.len();
    }
    batches.push(&documents[start..]);
    batches
}

fn print(findings: &[Finding], output: Output) -> Result<(), Failure> {
    if output.is_json() {
        for finding in findings {
            output.json(finding)?;
        }
        return Ok(());
    }
    let rows = findings.iter().map(|finding| {
        let verdict = if finding.quarantine { "quarantine" } else { "allow" };
        let reasons: Vec<_> = finding.reasons.iter().take(REASONS_SHOWN).cloned().collect();
        let risk = finding.risk.to_string();
        vec![finding.doc_id.clone(), risk, verdict.to_owned(), reasons.join("; ")]
    });
    Ok(output.table(&["DOCUMENT", "RISK", "VERDICT", "REASONS"], rows.collect())?)
}

//! Documents of mixed length through a transformer, beside batches in the order of their arrival: whoever
//! pads to the longest pays for it. And the scores of a document are the same to the bit, whatever is
//! scored beside it.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use client::scan::Document;
use client::{Client, Credential};
use serde_json::Value;

use super::{Plan, bare_loop, job, serve};
use crate::sample::median;
use crate::skep::{Limits, Skep};
use crate::table::{Table, line};

/// Pads first-come batches.
const LOOP: &str = include_str!("mixed.py");
const NAME: &str = "mixed";
const DOCUMENTS: usize = 600;
/// Documents that also have a job of their own.
const ALONE: usize = 6;
/// Tokens of a document, at most, and those beside its words.
const TOKENS_MAX: usize = 256;
const MARKS: usize = 2;
/// Words of one token each in the vocabularies of BERT.
const WORDS: [&str; 8] = ["the", "of", "and", "house", "water", "is", "it", "was"];
const HEAD: [&str; 6] =
    ["documents", "documents/CPU-s", "submitted by length", "ratio", "first-come by 32", "ratio"];

pub(super) async fn run(plan: &Plan, bundle: &Path, skep: &Skep, admin: &Client) -> Result<()> {
    let tar = std::fs::read(bundle).with_context(|| bundle.display().to_string())?;
    serve(admin, NAME, Bytes::from(tar)).await?;
    let lengths: Vec<usize> = (0..DOCUMENTS).map(words).collect();
    let tokens: Vec<String> =
        lengths.iter().map(|words| (words + MARKS).min(TOKENS_MAX).to_string()).collect();
    let documents: Vec<Document> = lengths.iter().enumerate().map(document).collect();
    let backwards: Vec<Document> = documents.iter().rev().cloned().collect();
    let mut by_length = documents.clone();
    by_length.sort_by_key(|document| document.content.len());
    let (mut ours, mut bare, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let (mut sorted, mut of_sorted) = (Vec::new(), Vec::new());
    let mut known = BTreeMap::new();
    for round in 0..plan.rounds {
        let peer = bare_loop(&plan.python, LOOP, bundle, &[tokens.join(",")])?;
        let documents = if round % 2 == 0 { &documents } else { &backwards };
        let client = stranger(skep).await?;
        let done = job(skep, &client, NAME, documents).await?;
        ours.push(done.rate);
        bare.push(peer);
        ratios.push(done.rate / peer);
        compare(&client, &done.id, &mut known).await?;
        // What it would be worth to sort all of a job before it is cut, and not each task.
        let client = stranger(skep).await?;
        let best = job(skep, &client, NAME, &by_length).await?;
        sorted.push(best.rate);
        of_sorted.push(done.rate / best.rate);
        compare(&client, &best.id, &mut known).await?;
    }
    let client = stranger(skep).await?;
    for document in documents.iter().step_by(DOCUMENTS / ALONE) {
        let done = job(skep, &client, NAME, std::slice::from_ref(document)).await?;
        compare(&client, &done.id, &mut known).await?;
    }
    let mut table = Table::new(&HEAD);
    table.row(vec![
        DOCUMENTS.to_string(),
        format!("{:.1}", median(ours)),
        format!("{:.1}", median(sorted)),
        format!("{:.2}", median(of_sorted)),
        format!("{:.1}", median(bare)),
        format!("{:.2}", median(ratios)),
    ]);
    table.print();
    line(&format!("{} vectors equal to the bit in every order, and alone", known.len()));
    Ok(())
}

/// Words of a document: log-logistic with a median of 27, a tenth below 8 and a tenth above 91, in an
/// order that has nothing to do with it.
fn words(place: usize) -> usize {
    const MEDIAN: f64 = 27.0;
    const SHAPE: f64 = 1.81;
    // Coprime to the number of documents: every share of them once.
    let share = ((place * 277 + 13) % DOCUMENTS) as f64 + 0.5;
    let odds = share / (DOCUMENTS as f64 - share);
    (MEDIAN * odds.powf(1.0 / SHAPE)).round().max(1.0) as usize
}

fn document((place, &words): (usize, &usize)) -> Document {
    let word = |at: usize| WORDS[(place / (at % 7 + 1) + at * at) % WORDS.len()];
    let content: Vec<&str> = (0..words).map(word).collect();
    Document::new(format!("d{place}"), content.join(" "))
}

/// A tenant for whom nothing is cached.
async fn stranger(skep: &Skep) -> Result<Client> {
    let tenant = skep.tenant("mixed", Limits::None).await?;
    Ok(Client::new(skep.urls(), Credential::key(&tenant.key))?)
}

/// Fails if a document has another vector than it had.
async fn compare(client: &Client, job: &str, known: &mut BTreeMap<String, Value>) -> Result<()> {
    for result in client.job_results(job).await?.body {
        // A number is written with as many digits as tell it from all others.
        let vector = result.more.get("embedding").context("no embedding")?;
        let first = known.entry(result.doc_id.clone()).or_insert_with(|| vector.clone());
        ensure!(first == vector, "{}: another vector in {job}", result.doc_id);
    }
    Ok(())
}

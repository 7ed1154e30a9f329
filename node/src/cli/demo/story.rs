//! Telling the steps: one line each, with a figure, as they happen.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::cli::failure::Failure;
use crate::cli::output::Output;

/// What a step did, and the figure that shows it.
pub(super) struct Told {
    what: String,
    figure: String,
}

impl Told {
    pub(super) fn new(what: impl Into<String>, figure: impl Into<String>) -> Told {
        Told { what: what.into(), figure: figure.into() }
    }
}

/// The steps told so far.
pub(super) struct Story {
    output: Output,
    steps: u32,
    began: Instant,
}

impl Story {
    pub(super) fn new(output: Output) -> Story {
        Story { output, steps: 0, began: Instant::now() }
    }

    /// Does one step and prints its line. `name` is shown while it lasts, and if it fails.
    pub(super) async fn step(
        &mut self,
        name: &str,
        work: impl Future<Output = Result<Told, Failure>>,
    ) -> Result<(), Failure> {
        self.steps += 1;
        let spinner = self.output.spinner(name);
        let began = Instant::now();
        let done = Box::pin(work).await;
        spinner.finish_and_clear();
        match done {
            Ok(told) => self.print(&told.what, &told.figure, began.elapsed(), true),
            Err(failure) => {
                self.print(name, &failure.message, began.elapsed(), false)?;
                Err(failure)
            }
        }
    }

    pub(super) fn output(&self) -> Output {
        self.output
    }

    /// The last line.
    pub(super) fn close(&self) -> Result<(), Failure> {
        let (steps, took) = (self.steps, self.began.elapsed());
        if self.output.is_json() {
            let end = json!({"steps": steps, "ok": true, "seconds": took.as_secs_f64()});
            return Ok(self.output.json(&end)?);
        }
        Ok(self.output.line(&format!("\n{steps} steps in {}: every one held", seconds(took)))?)
    }

    fn print(&self, what: &str, figure: &str, took: Duration, ok: bool) -> Result<(), Failure> {
        let step = self.steps;
        if self.output.is_json() {
            let seconds = took.as_secs_f64();
            let line = json!({
                "step": step, "what": what, "figure": figure, "seconds": seconds, "ok": ok
            });
            return Ok(self.output.json(&line)?);
        }
        let mark = if ok { "ok" } else { "FAILED" };
        Ok(self.output.line(&format!("{step:>2}  {what:<46}  {figure:<58}  {mark}"))?)
    }
}

/// Seconds as people read them.
pub(super) fn seconds(duration: Duration) -> String {
    format!("{:.2} s", duration.as_secs_f64())
}

/// Milliseconds as people read them.
pub(super) fn millis(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1_000.0)
}

/// Fails with what was expected unless `holds`.
pub(super) fn expect(holds: bool, expected: impl FnOnce() -> String) -> Result<(), Failure> {
    if holds { Ok(()) } else { Err(Failure::failed(format!("expected {}", expected()))) }
}

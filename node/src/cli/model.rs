//! `skep model`: judging the built-in model.

use actors::inference::{EVALUATION, EngineChoice, Options, Scanner, evaluate};

use super::Context;
use super::failure::Failure;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Precision and recall per class on the hand-written evaluation set
    Evaluate,
}

pub(super) fn run(command: Command, context: &Context) -> Result<(), Failure> {
    let Command::Evaluate = command;
    let scanner = Scanner::load(EngineChoice::Auto, Options::default());
    let scanner = scanner.map_err(|error| Failure::failed(error.to_string()))?;
    let report = evaluate(&scanner, EVALUATION);
    let report = report.map_err(|error| Failure::failed(error.to_string()))?;
    let identity = scanner.identity();
    context
        .output
        .line(&format!("{} {} on {}", identity.name, identity.version, identity.engine))?;
    context.output.line(report.to_string().trim_end())?;
    Ok(())
}

//! `skep model`: judging the built-in model.

use super::Context;
use super::failure::Failure;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Precision and recall per class on the evaluation set
    Evaluate,
}

pub(super) fn run(command: Command, _context: &Context) -> Result<(), Failure> {
    match command {
        // Hook: the evaluation of `actors::inference` goes here.
        Command::Evaluate => Err(Failure::failed("this build has no evaluation")),
    }
}

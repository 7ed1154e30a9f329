//! `skep config`: the settings in force, and whether they are right.

use std::path::PathBuf;

use super::failure::{Exit, Failure};
use crate::config::{self, ConfigError, Sources};

/// What to do with the settings.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Print every setting as it would be used
    Dump {
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Say whether a file and the environment can be used
    Check {
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
}

/// Prints or checks.
#[expect(clippy::print_stdout, reason = "this is what the command is for")]
pub fn run(command: Command) -> Result<(), Failure> {
    let (Command::Dump { config: file } | Command::Check { config: file }) = &command;
    let environment = config::environment();
    let sources = Sources { file: file.as_deref(), environment, flags: Vec::new() };
    let wrong = |error: ConfigError| Failure::new(Exit::Usage, error.to_string());
    let table = config::merged(&sources).map_err(wrong)?;
    config::load(&sources).map_err(wrong)?;
    match command {
        Command::Dump { .. } => print!("{table}"),
        Command::Check { .. } => println!("ok"),
    }
    Ok(())
}

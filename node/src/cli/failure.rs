//! How a command ends badly: an exit code that scripts can tell apart, one line, and a hint.

use std::io;
use std::process::ExitCode;

use client::ClientError;

use super::launch::LaunchError;

/// The exit codes of `skep`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Ok = 0,
    Failed = 1,
    Usage = 2,
    Authentication = 3,
    NotFound = 4,
    /// A conflict, or a refusal to start.
    Refused = 5,
    Limited = 6,
    Unavailable = 7,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// A command that did not do what was asked.
#[derive(Debug)]
pub struct Failure {
    pub exit: Exit,
    /// One line; empty when there is nothing to say.
    pub message: String,
    pub hint: Option<&'static str>,
}

impl Failure {
    pub fn new(exit: Exit, message: impl Into<String>) -> Failure {
        Failure { exit, message: message.into(), hint: None }
    }

    /// A plain failure: exit code 1.
    pub fn failed(message: impl Into<String>) -> Failure {
        Failure::new(Exit::Failed, message)
    }

    pub fn with_hint(self, hint: &'static str) -> Failure {
        Failure { hint: Some(hint), ..self }
    }

    /// Says on stderr what went wrong.
    #[expect(clippy::print_stderr, reason = "this is where the command line reports errors")]
    pub fn report(&self) -> ExitCode {
        if !self.message.is_empty() {
            eprintln!("skep: {}", self.message.replace('\n', " "));
        }
        if let Some(hint) = self.hint {
            eprintln!("  {hint}");
        }
        self.exit.into()
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        let exit = match &error {
            ClientError::Problem(problem) => exit_of(problem.status),
            ClientError::Transport { .. } => Exit::Unavailable,
            ClientError::Decode { .. } | ClientError::TooLarge { .. } => Exit::Failed,
            ClientError::Setup(_) => Exit::Usage,
        };
        let hint = hint_for(&error);
        Failure { exit, message: error.to_string(), hint }
    }
}

impl From<LaunchError> for Failure {
    fn from(error: LaunchError) -> Failure {
        let exit = match error {
            LaunchError::Client(error) => return error.into(),
            LaunchError::Refused(_) => Exit::Refused,
            LaunchError::TimedOut { .. } => Exit::Unavailable,
            LaunchError::Exited { status, .. } if status.code() == Some(5) => Exit::Refused,
            LaunchError::Exited { .. }
            | LaunchError::File { .. }
            | LaunchError::Spawn { .. }
            | LaunchError::Diverged { .. } => Exit::Failed,
        };
        Failure::new(exit, error.to_string())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        if error.kind() == io::ErrorKind::BrokenPipe {
            // The reader has seen enough (`skep job list | head -1`); nothing failed.
            return Failure::new(Exit::Ok, "");
        }
        Failure::failed(error.to_string())
    }
}

fn exit_of(status: u16) -> Exit {
    match status {
        401 | 403 => Exit::Authentication,
        404 | 410 => Exit::NotFound,
        409 | 412 | 428 => Exit::Refused,
        402 | 429 => Exit::Limited,
        502..=504 | 507 => Exit::Unavailable,
        _ => Exit::Failed,
    }
}

fn hint_for(error: &ClientError) -> Option<&'static str> {
    match error {
        ClientError::Transport { .. } => {
            Some("is a node running there? start one with `skep dev`, or name another with --node")
        }
        ClientError::Problem(problem) if problem.status == 401 => {
            Some("give a key with SKEP_KEY or --key-file")
        }
        ClientError::Problem(problem) if problem.detail.contains("X-Tenant-Id") => {
            Some("an operator's key acts for a tenant: name it with --tenant")
        }
        ClientError::Problem(_)
        | ClientError::Decode { .. }
        | ClientError::TooLarge { .. }
        | ClientError::Setup(_) => None,
    }
}

//! What a command prints: tables for people at a terminal, JSON for everyone else.

use std::io::{self, IsTerminal, Write};
use std::sync::LazyLock;

use clap::ValueEnum;
use comfy_table::{Table, presets};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde::Serialize;

/// Everything that moves on the terminal, so that two of them do not draw over each other.
static PROGRESS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// The form of the results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Table,
    Json,
}

/// Where and how a command prints.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    pub format: Format,
    pub quiet: bool,
    pub verbose: bool,
    terminal: bool,
}

impl Output {
    /// The form asked for, or a table exactly when a person is looking.
    pub fn new(format: Option<Format>, quiet: bool, verbose: bool) -> Output {
        let terminal = io::stdout().is_terminal();
        let fitting = if terminal { Format::Table } else { Format::Json };
        Output { format: format.unwrap_or(fitting), quiet, verbose, terminal }
    }

    pub fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// One line on stdout.
    pub fn line(&self, text: &str) -> io::Result<()> {
        writeln!(io::stdout().lock(), "{text}")
    }

    /// A line as it came, for streams of records.
    pub fn bytes(&self, line: &[u8]) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(line)?;
        stdout.write_all(b"\n")
    }

    /// One JSON value on one line.
    pub fn json(&self, value: &impl Serialize) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        serde_json::to_writer(&mut stdout, value)?;
        stdout.write_all(b"\n")
    }

    /// Rows for people. Piped, they are plain columns without lines.
    pub fn table(&self, header: &[&str], rows: Vec<Vec<String>>) -> io::Result<()> {
        let mut table = Table::new();
        let style = if self.terminal { presets::UTF8_BORDERS_ONLY } else { presets::NOTHING };
        table.load_style(style).set_header(header.to_vec());
        for row in rows {
            table.add_row(row);
        }
        self.line(&table.trim_fmt())
    }

    /// A remark on stderr that `-q` silences.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            // Nobody may be reading stderr; the result on stdout counts.
            let _ = writeln!(io::stderr().lock(), "{text}");
        }
    }

    /// A remark on stderr that `-v` brings out.
    pub fn detail(&self, text: &str) {
        if self.verbose {
            self.note(text);
        }
    }

    /// A bar on a terminal, nothing elsewhere.
    pub fn bar(&self, length: u64, what: &str) -> ProgressBar {
        if !self.shows_progress() {
            return ProgressBar::hidden();
        }
        let bar = PROGRESS.add(ProgressBar::new(length).with_message(what.to_owned()));
        let template = "{msg} {bar:40} {pos}/{len} {eta}";
        match ProgressStyle::with_template(template) {
            Ok(style) => bar.with_style(style),
            Err(_) => bar,
        }
    }

    /// A spinner on a terminal, nothing elsewhere.
    pub fn spinner(&self, what: &str) -> ProgressBar {
        if !self.shows_progress() {
            return ProgressBar::hidden();
        }
        let spinner = PROGRESS.add(ProgressBar::new_spinner().with_message(what.to_owned()));
        spinner.enable_steady_tick(std::time::Duration::from_millis(100));
        spinner
    }

    fn shows_progress(&self) -> bool {
        !self.quiet && !self.is_json() && self.terminal && io::stderr().is_terminal()
    }
}

//! What a run tells: a line per round, a summary with figures.
#![expect(clippy::print_stdout, reason = "a command line program talks on stdout")]

use std::time::Duration;

/// Where lines go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Report {
    quiet: bool,
}

impl Report {
    pub(crate) fn new(quiet: bool) -> Report {
        Report { quiet }
    }

    /// A line of one round.
    pub(crate) fn line(&self, text: &str) {
        if !self.quiet {
            println!("{text}");
        }
    }

    /// A line that is always shown.
    pub(crate) fn summary(&self, text: &str) {
        println!("{text}");
    }
}

/// Times, to be told as median and worst.
#[derive(Debug, Clone, Default)]
pub(crate) struct Times(Vec<Duration>);

impl Times {
    pub(crate) fn push(&mut self, time: Duration) {
        self.0.push(time);
    }

    /// `p50 812 ms, max 1430 ms of 100`.
    pub(crate) fn told(&self) -> String {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let Some(&max) = sorted.last() else { return "none".to_owned() };
        let middle = sorted[(sorted.len() - 1) / 2];
        let (middle, max) = (middle.as_millis(), max.as_millis());
        format!("p50 {middle} ms, max {max} ms of {}", sorted.len())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Times;

    #[test]
    fn times_are_told_as_median_and_worst() {
        let mut times = Times::default();
        assert_eq!(times.told(), "none");
        for time in [30, 10, 20] {
            times.push(Duration::from_millis(time));
        }
        assert_eq!(times.told(), "p50 20 ms, max 30 ms of 3");
    }
}

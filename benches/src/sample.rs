//! Figures of one cell, and medians over rounds.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What the workers of a closed loop saw.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Microseconds of each operation that succeeded.
    pub(crate) latencies_us: Vec<u32>,
    pub(crate) errors: u64,
    /// What the first error said.
    pub(crate) complaint: Option<String>,
}

impl Seen {
    pub(crate) fn success(&mut self, took: Duration) {
        self.latencies_us.push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
    }

    pub(crate) fn error(&mut self, complaint: impl FnOnce() -> String) {
        self.errors += 1;
        self.complaint.get_or_insert_with(complaint);
    }

    pub(crate) fn add(&mut self, other: Seen) {
        self.latencies_us.extend(other.latencies_us);
        self.errors += other.errors;
        self.complaint = self.complaint.take().or(other.complaint);
    }

    /// The figures of a run that took `elapsed` from the first operation to the end of the last.
    pub(crate) fn sample(mut self, elapsed: Duration) -> Sample {
        self.latencies_us.sort_unstable();
        Sample {
            ops: self.latencies_us.len() as u64,
            errors: self.errors,
            complaint: self.complaint,
            seconds: elapsed.as_secs_f64(),
            p50_ms: percentile(&self.latencies_us, 0.50),
            p99_ms: percentile(&self.latencies_us, 0.99),
            p999_ms: percentile(&self.latencies_us, 0.999),
            max_ms: percentile(&self.latencies_us, 1.0),
            cpu_ms: 0.0,
        }
    }
}

fn percentile(sorted_us: &[u32], share: f64) -> f64 {
    let last = sorted_us.len().saturating_sub(1);
    let at = (last as f64 * share).round() as usize;
    sorted_us.get(at).map_or(f64::NAN, |&us| f64::from(us) / 1000.0)
}

/// One contestant in one round.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Sample {
    pub(crate) ops: u64,
    pub(crate) errors: u64,
    pub(crate) complaint: Option<String>,
    pub(crate) seconds: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) p999_ms: f64,
    pub(crate) max_ms: f64,
    /// Of all its server processes.
    pub(crate) cpu_ms: f64,
}

impl Sample {
    /// How many errors there were and what the first said, if there were any.
    pub(crate) fn complaint(&self) -> Option<String> {
        let complaint = self.complaint.as_deref()?;
        Some(format!("{} errors, the first: {complaint}", self.errors))
    }
}

/// One contestant over all rounds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Medians {
    pub(crate) per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) p999_ms: f64,
    pub(crate) cpu_ms_per_op: f64,
    pub(crate) errors: u64,
}

impl Medians {
    pub(crate) fn of(rounds: &[Sample]) -> Medians {
        let median = |figure: fn(&Sample) -> f64| median(rounds.iter().map(figure).collect());
        Medians {
            per_second: median(|sample| sample.ops as f64 / sample.seconds),
            p50_ms: median(|sample| sample.p50_ms),
            p99_ms: median(|sample| sample.p99_ms),
            p999_ms: median(|sample| sample.p999_ms),
            // An error costs CPU as well; charged to the operations that succeeded.
            cpu_ms_per_op: median(|sample| sample.cpu_ms / sample.ops as f64),
            errors: rounds.iter().map(|sample| sample.errors).sum(),
        }
    }

    /// Cells in the order of [`HEAD`].
    pub(crate) fn cells(&self) -> [String; 6] {
        [
            format!("{:.0}", self.per_second),
            format!("{:.3}", self.p50_ms),
            format!("{:.3}", self.p99_ms),
            format!("{:.3}", self.p999_ms),
            format!("{:.4}", self.cpu_ms_per_op),
            self.errors.to_string(),
        ]
    }

    /// How this compares with another: rate and CPU per operation.
    pub(crate) fn ratio(&self, other: &Medians) -> String {
        let rate = self.per_second / other.per_second;
        let cpu = self.cpu_ms_per_op / other.cpu_ms_per_op;
        format!("{rate:.3}x the rate, {cpu:.2}x the CPU per operation")
    }
}

/// The columns of [`Medians::cells`].
pub(crate) const HEAD: [&str; 6] = ["ops/s", "p50 ms", "p99 ms", "p99.9 ms", "CPU-ms/op", "errors"];

/// The middle value; of an even number the mean of the middle two.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Medians, Seen, median};

    #[test]
    fn medians_take_the_middle() {
        assert!(median(Vec::new()).is_nan());
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    fn a_sample_counts_successes_and_keeps_the_first_complaint() {
        let mut seen = Seen::default();
        (1..=100).for_each(|ms| seen.success(Duration::from_millis(ms)));
        seen.error(|| "first".to_owned());
        seen.error(|| "second".to_owned());
        let mut sample = seen.sample(Duration::from_secs(2));
        sample.cpu_ms = 50.0;
        assert_eq!((sample.ops, sample.errors), (100, 2));
        assert_eq!(sample.complaint.as_deref(), Some("first"));
        assert_eq!((sample.p50_ms, sample.p99_ms, sample.max_ms), (51.0, 99.0, 100.0));
        let medians = Medians::of(&[sample]);
        assert_eq!((medians.per_second, medians.cpu_ms_per_op), (50.0, 0.5));
    }
}

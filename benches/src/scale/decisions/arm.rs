//! Somebody who is asked, and for whom.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::bare::Bare;
use crate::figures::Figures;
use crate::limits::{BODY, LEAD_IN, LINE};
use crate::load::{Cycle, Loop, request};
use crate::sample::{Medians, Sample};
use crate::scale::{ASKED, Plan};
use crate::skep::{Limits, Skep};

/// One contestant, and what its windows gave.
#[derive(Debug)]
pub(super) struct Arm {
    pub(super) name: String,
    address: String,
    cycles: Vec<Cycle>,
    pids: Vec<u32>,
    pub(super) takes_slabs: bool,
    pub(super) windows: Vec<Sample>,
}

impl Arm {
    pub(super) fn axum(plan: &Plan, bare: &Bare) -> Arm {
        let requests = [request(LINE, &bare.address, None, Some(BODY))];
        Arm {
            name: "bare axum".to_owned(),
            address: bare.address.clone(),
            cycles: cycles(plan, &requests),
            pids: bare.pids(),
            takes_slabs: false,
            windows: Vec::new(),
        }
    }

    pub(super) fn of_skep(
        plan: &Plan,
        skep: &Skep,
        kind: Limits,
        keys: &[&str],
        held: usize,
    ) -> Arm {
        let address = skep.address(ASKED);
        let asked = |key: &&str| request(LINE, &address, Some(key), Some(BODY));
        let requests: Vec<_> = keys.iter().map(asked).collect();
        Arm {
            name: format!("{}, {} asked of {held}", kind.name(), keys.len()),
            cycles: cycles(plan, &requests),
            address,
            pids: skep.pids(),
            takes_slabs: kind == Limits::Vast,
            windows: Vec::new(),
        }
    }

    pub(super) async fn window(&self, lead_in: Duration, time: Duration) -> Result<Sample> {
        let (address, cycles) = (self.address.as_str(), self.cycles.clone());
        let measured = Loop { address, cycles, lead_in, time, pids: &self.pids }.run().await;
        measured.with_context(|| self.name.clone())
    }

    /// Asks for every key twice: the first touch of each is told of elsewhere.
    pub(super) async fn warm_up(&self, time: Duration) -> Result<()> {
        let mut missing = 2 * self.cycles.iter().map(|cycle| cycle.len()).sum::<usize>() as u64;
        while missing > 0 {
            missing = missing.saturating_sub(self.window(Duration::ZERO, time).await?.ops);
        }
        Ok(())
    }

    /// What went wrong in any window.
    pub(super) fn complaint(&self) -> Option<String> {
        let complaint = self.windows.iter().find_map(Sample::complaint)?;
        Some(format!("{}: {complaint}", self.name))
    }

    /// Proposals per request, in a window that goes on where another one has stopped.
    pub(super) async fn proposals(&self, skep: &Skep, time: Duration) -> Result<f64> {
        self.window(LEAD_IN, time).await?;
        let before = Figures::read(skep, ASKED).await?;
        let sample = self.window(Duration::ZERO, time).await?;
        let proposals = Figures::read(skep, ASKED).await?.since(&before).proposals;
        Ok(proposals as f64 / sample.ops as f64)
    }

    pub(super) fn medians(&self) -> Medians {
        Medians::of(&self.windows)
    }
}

/// A cycle for each connection, of the same length for everybody, so that the generator does the same
/// work: the requests are divided over them, over and over where they are fewer.
fn cycles(plan: &Plan, requests: &[Vec<u8>]) -> Vec<Cycle> {
    let length = plan.spread() / plan.conns;
    let cycle = |connection: usize| {
        let from = requests.iter().cycle().skip(connection * length % requests.len());
        from.take(length).cloned().collect()
    };
    (0..plan.conns).map(cycle).collect()
}

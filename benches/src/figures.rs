//! Where decisions were made, by the nodes' own counters: a bench of the warm path that took another
//! one would say nothing.

use anyhow::{Result, ensure};

use crate::skep::Skep;
use crate::table::line;

const OUT_OF_SLABS: &str = r#"skep_limit_decisions_total{outcome="admitted",policy="any"}"#;
const WITHOUT_LIMIT: &str = r#"skep_limit_decisions_total{outcome="admitted",policy="none"}"#;
const BY_OWNER: &str = r#"skep_limit_decisions_total{outcome="admitted",policy="owner"}"#;
const PROPOSALS: &str = "skep_proposal_duration_seconds_count";

/// Counters, or what they grew by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figures {
    /// On the node that was asked.
    out_of_slabs: u64,
    without_limit: u64,
    /// On all nodes.
    by_owner: u64,
    pub(crate) proposals: u64,
}

impl Figures {
    pub(crate) async fn read(skep: &Skep, asked: usize) -> Result<Figures> {
        let pages = skep.metrics().await?;
        let all = |name| pages.iter().map(|page| counter(page, name)).sum();
        Ok(Figures {
            out_of_slabs: counter(&pages[asked], OUT_OF_SLABS),
            without_limit: counter(&pages[asked], WITHOUT_LIMIT),
            by_owner: all(BY_OWNER),
            proposals: all(PROPOSALS),
        })
    }

    pub(crate) fn since(&self, before: &Figures) -> Figures {
        Figures {
            out_of_slabs: self.out_of_slabs - before.out_of_slabs,
            without_limit: self.without_limit - before.without_limit,
            by_owner: self.by_owner - before.by_owner,
            proposals: self.proposals - before.proposals,
        }
    }

    /// Says where it was decided; an error when less than `counted` was taken out of slabs.
    pub(crate) fn tell(&self, counted: u64) -> Result<()> {
        let Figures { out_of_slabs, without_limit, by_owner, proposals } = self;
        line(&format!(
            "decided by the asked node: {out_of_slabs} out of slabs, {without_limit} without a \
             limit; by an owner: {by_owner}; {proposals} proposals meanwhile"
        ));
        ensure!(
            *out_of_slabs >= counted,
            "{counted} requests of tenants with limits were answered, {out_of_slabs} out of slabs"
        );
        Ok(())
    }
}

/// A counter that has not counted yet is not on the page.
fn counter(page: &str, name: &str) -> u64 {
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.trim().parse::<f64>().ok()).map_or(0, |value| value as u64)
}

#[cfg(test)]
mod tests {
    use super::{OUT_OF_SLABS, PROPOSALS, counter};

    #[test]
    fn a_counter_is_read_by_its_whole_name() {
        let page = format!("# HELP x\n{PROPOSALS}_more 3\n{PROPOSALS} 7\n{OUT_OF_SLABS} 2e3\n");
        assert_eq!(counter(&page, PROPOSALS), 7);
        assert_eq!(counter(&page, OUT_OF_SLABS), 2000);
        assert_eq!(counter(&page, "skep_other"), 0);
    }
}

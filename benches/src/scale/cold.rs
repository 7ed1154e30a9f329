//! The first touch of a tenant: its node is asked who the key is and, where there are limits, for the
//! first slab, which is a replicated write. One request at a time.

use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::time::Instant;

use super::population::Population;
use super::{ASKED, KINDS, Plan};
use crate::limits::{BODY, LINE};
use crate::load::{Connection, request};
use crate::sample::{Sample, Seen};
use crate::skep::Skep;
use crate::table::Table;

const HEAD: [&str; 5] = ["one check at a time", "checks", "p50 ms", "p99 ms", "max ms"];

/// First and second checks of the youngest tenants, which nobody has asked for yet.
pub(super) async fn run(plan: &Plan, skep: &Skep, population: &Population) -> Result<()> {
    let address = skep.address(ASKED);
    let mut connection = Connection::open(&address).await?;
    let mut table = Table::new(&HEAD);
    for kind in KINDS {
        let keys = population.first_keys(kind);
        let (mut first, mut second) = (Seen::default(), Seen::default());
        for key in keys.iter().rev().take(plan.cold) {
            let request = request(LINE, &address, Some(key), Some(BODY));
            for seen in [&mut first, &mut second] {
                let since = Instant::now();
                let status = connection.ask(&request).await?;
                seen.success(since.elapsed());
                ensure!(status == 200, "{status} {}", connection.text());
            }
        }
        for (which, seen) in [("first", first), ("second", second)] {
            let sample = seen.sample(Duration::ZERO);
            table.row(row(&format!("{which}, {}", kind.name()), &sample));
        }
    }
    table.print();
    Ok(())
}

fn row(name: &str, sample: &Sample) -> Vec<String> {
    let ms = [sample.p50_ms, sample.p99_ms, sample.max_ms].map(|ms| format!("{ms:.3}"));
    [vec![name.to_owned(), sample.ops.to_string()], ms.to_vec()].concat()
}

//! Leaders greet a peer that has come up. An idle leader beats seldom, and until a node that was started
//! again has heard one it knows nobody who decides.

use std::collections::BTreeMap;
use std::sync::Arc;

use raft::Host;

use crate::remote::{PeerState, PeerTransport};

/// Runs for as long as the transport does.
pub(crate) async fn greet(host: Arc<Host>, transport: Arc<dyn PeerTransport>) {
    let mut states = transport.states();
    let mut known = BTreeMap::new();
    loop {
        let up = incarnations(&states.borrow_and_update());
        if up.iter().any(|(node, incarnation)| known.get(node) != Some(incarnation)) {
            host.beat();
        }
        known = up;
        if states.changed().await.is_err() {
            return;
        }
    }
}

fn incarnations(states: &BTreeMap<u64, PeerState>) -> BTreeMap<u64, u64> {
    let up = states.iter().filter_map(|(&node, state)| match state {
        PeerState::Up { incarnation } => Some((node, *incarnation)),
        PeerState::Down { .. } => None,
    });
    up.collect()
}

use std::collections::BTreeMap;

use proptest::prelude::*;
use protocol::nodes::{Command, LifeId, Map, Registration, Secrets};
use protocol::{ClusterId, Digest, Entry, GroupId, NodeId, Proposal, Stamp, Time};

use super::*;
use crate::machine::Machine;

fn registration() -> Registration {
    Registration {
        incarnation: 1,
        life: LifeId(1),
        pin: Digest([0; 32]),
        http: String::new(),
        peer: String::new(),
        version: "0.0.0".to_owned(),
        key: [0; 32],
    }
}

struct Meta {
    machine: Machine,
    index: u64,
}

impl Meta {
    fn new() -> Self {
        let mut meta = Self { machine: Machine::new(GroupId::META), index: 0 };
        meta.run(Command::Bootstrap {
            cluster: ClusterId(1),
            secrets: Secrets { pepper: [0; 32], cookie: [0; 32] },
            registration: registration(),
        });
        meta
    }

    fn run(&mut self, command: Command) {
        self.index += 1;
        let epoch = self.machine.epoch();
        let command = protocol::Command::Node(command);
        let proposals = vec![Proposal::new(Stamp::at(Time(self.index)), command)];
        let changes = self.machine.apply(self.index, 1, Entry { epoch, proposals });
        assert!(changes.applied[0].outcome.is_ok(), "{changes:?}");
    }

    fn join(&mut self) {
        let token = Digest([self.index as u8; 32]);
        self.run(Command::IssueToken { token, expires_at: Time(u64::MAX) });
        self.run(Command::Join { token, registration: registration() });
    }

    fn settle(&mut self) -> usize {
        let mut steps = 0;
        loop {
            let changes = plan(self.map());
            if changes.is_empty() {
                return steps;
            }
            for change in changes {
                self.run(change);
                steps += 1;
            }
            assert!(steps < 1000, "placement does not settle");
        }
    }

    fn map(&self) -> &Map {
        self.machine.nodes.map().unwrap()
    }

    fn leads(&self) -> BTreeMap<NodeId, usize> {
        let mut leads: BTreeMap<_, _> = self.map().nodes.keys().map(|&node| (node, 0)).collect();
        for (_, placement) in self.map().shards() {
            *leads.entry(placement.preferred).or_default() += 1;
        }
        leads
    }
}

#[test]
fn a_cluster_of_one_needs_nothing() {
    assert_eq!(Meta::new().settle(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn growing_keeps_replicas_apart_and_leaders_even(nodes in 2usize..12) {
        let mut meta = Meta::new();
        for _ in 1..nodes {
            meta.join();
            meta.settle();
        }
        for (_, placement) in meta.map().shards() {
            let hosts: std::collections::BTreeSet<_> = placement.replicas.values().collect();
            prop_assert_eq!(hosts.len(), placement.replicas.len());
            prop_assert_eq!(hosts.len(), nodes.min(3));
            prop_assert!(hosts.contains(&placement.preferred));
        }
        prop_assert_eq!(voters(meta.map(), GroupId::META).len(), meta_voters(nodes));
        if nodes <= 3 {
            let leads = meta.leads();
            let (least, most) = (leads.values().min().unwrap(), leads.values().max().unwrap());
            prop_assert!(most - least <= 1, "{leads:?}");
        }
        prop_assert_eq!(meta.settle(), 0);
    }
}

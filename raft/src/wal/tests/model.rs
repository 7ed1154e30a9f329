//! Random histories against a model, with restarts and crashes in between.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::{
    super::{Options, Record, Wal},
    crashed, directory, entry, open, run, tell, tiny,
};

const GROUPS: u32 = 3;

#[derive(Debug, Clone)]
enum Step {
    Append {
        group: u32,
        count: u64,
    },
    /// Back by that many entries.
    Truncate {
        group: u32,
        back: u64,
    },
    /// All but that many entries, or beyond the end.
    Purge {
        group: u32,
        keep: i64,
    },
    Vote {
        group: u32,
    },
    Committed {
        group: u32,
    },
    Host {
        group: u32,
    },
    Retire {
        group: u32,
    },
    /// Close and open.
    Restart,
    /// Go on with a copy of the files.
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    let group = 0..GROUPS;
    prop_oneof![
        8 => (group.clone(), 1_u64..12).prop_map(|(group, count)| Step::Append { group, count }),
        2 => (group.clone(), 0_u64..6).prop_map(|(group, back)| Step::Truncate { group, back }),
        3 => (group.clone(), -2_i64..8).prop_map(|(group, keep)| Step::Purge { group, keep }),
        1 => group.clone().prop_map(|group| Step::Vote { group }),
        1 => group.clone().prop_map(|group| Step::Committed { group }),
        1 => group.clone().prop_map(|group| Step::Host { group }),
        1 => group.prop_map(|group| Step::Retire { group }),
        1 => Just(Step::Restart),
        1 => Just(Step::Crash),
    ]
}

/// What a group should say.
#[derive(Debug, Default, Clone)]
struct Model {
    replica: Option<u64>,
    retired: Option<u64>,
    vote: Option<u64>,
    committed: Option<u64>,
    purged: Option<(u64, u64)>,
    entries: BTreeMap<u64, u64>,
}

impl Model {
    fn next(&self) -> u64 {
        let after_purged = self.purged.map_or(0, |(_, index)| index + 1);
        self.entries.last_key_value().map_or(after_purged, |(index, _)| index + 1)
    }

    fn tell(&self) -> String {
        let text =
            |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
        let purged =
            self.purged.map_or_else(|| "-".to_owned(), |(term, index)| format!("{term}.{index}"));
        let (replica, vote) = (text(self.replica), text(self.vote));
        let committed = text(self.committed);
        let retired = self.retired.map_or_else(String::new, |id| format!("retired {id} "));
        let mut said = format!(
            "{retired}replica {replica} vote {vote} committed {committed} purged {purged} entries"
        );
        for (index, term) in &self.entries {
            said.push_str(&format!(" {term}.{index}"));
        }
        said
    }

    /// The records of a step, with the model moved on; `number` makes values distinct.
    fn records(&mut self, step: &Step, number: u64) -> Vec<Record> {
        let value = Bytes::from(number.to_string());
        let record = match *step {
            Step::Append { count, .. } => {
                let indexes = self.next()..self.next() + count;
                self.entries.extend(indexes.clone().map(|index| (index, number)));
                return indexes.map(|index| entry(number, index)).collect();
            }
            Step::Truncate { back, .. } => {
                let from = self.next().saturating_sub(back);
                self.entries.split_off(&from);
                Record::Truncate { from }
            }
            Step::Purge { keep, .. } => {
                let Some(index) = self.next().checked_add_signed(-keep - 1) else { return vec![] };
                self.entries = self.entries.split_off(&(index + 1));
                if self.purged.is_none_or(|(_, purged)| purged <= index) {
                    self.purged = Some((number, index));
                }
                Record::Purge { term: number, index, payload: value }
            }
            Step::Vote { .. } => {
                self.vote = Some(number);
                Record::Vote(value)
            }
            Step::Committed { .. } => {
                self.committed = Some(number);
                Record::Committed(value)
            }
            Step::Host { .. } => {
                self.replica = Some(number);
                Record::Host { replica: number }
            }
            Step::Retire { .. } => {
                *self = Self { retired: Some(number), ..Self::default() };
                return vec![Record::Tombstone { replica: number }, Record::Retire];
            }
            Step::Restart | Step::Crash => return vec![],
        };
        vec![record]
    }
}

fn group_of(step: &Step) -> Option<u32> {
    match *step {
        Step::Append { group, .. } | Step::Truncate { group, .. } | Step::Purge { group, .. } => {
            Some(group)
        }
        Step::Vote { group }
        | Step::Committed { group }
        | Step::Host { group }
        | Step::Retire { group } => Some(group),
        Step::Restart | Step::Crash => None,
    }
}

fn agree(wal: &Wal, models: &BTreeMap<u32, Model>) {
    for (&group, model) in models {
        assert_eq!(tell(wal, group), model.tell(), "group {group}");
    }
}

fn play(steps: &[Step], options: Options) {
    let mut dir = directory();
    let mut wal = open(&dir, options);
    let mut models: BTreeMap<u32, Model> =
        (0..GROUPS).map(|group| (group, Model::default())).collect();
    for (step, number) in steps.iter().zip(1..) {
        if let Some(group) = group_of(step) {
            let records = models.get_mut(&group).unwrap().records(step, number);
            run(wal.group(group).sync(records)).unwrap();
            continue;
        }
        agree(&wal, &models);
        if matches!(step, Step::Crash) {
            let copy = crashed(dir.path());
            drop(wal);
            dir = copy;
        } else {
            drop(wal);
        }
        wal = open(&dir, options);
        agree(&wal, &models);
    }
    agree(&wal, &models);
    drop(wal);
    agree(&open(&dir, options), &models);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_history_is_told_the_same_after_restarts_and_crashes(
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        play(&steps, Options { segment_bytes: 1024, ..tiny() });
    }
}

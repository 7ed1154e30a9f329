//! How much a node fetches, and from which shard next. Pure, so that it can be tested without time.

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::GroupId;
use protocol::peer::Waiting;

use crate::jobs::Load;

/// A task with less than half of this left makes room for the next: some round trips, a commit and a
/// blob on a busy machine. What is asked for earlier waits here, where an idle node cannot take it.
const AHEAD: Duration = Duration::from_millis(800);
/// Of its room that a task takes however short it is: it has to be fetched and stored.
const SHARE_LEAST: f64 = 0.05;
/// A node this much slower than the others looks whether its help still helps.
const SLOW: f64 = 2.0;

/// Tasks that fit in: one per slot. One that is nearly done counts for less than one, so that the
/// next is here in time; of short ones there are as many as last for [`AHEAD`].
pub(super) fn room(slots: usize, left: impl Iterator<Item = Duration>, asked: usize) -> usize {
    let share = |left: Duration| left.div_duration_f64(AHEAD).clamp(SHARE_LEAST, 1.0);
    let held: f64 = left.map(share).sum();
    let room = slots as f64 - held - asked as f64;
    // Never negative after `max`; halves are rounded up.
    room.round().max(0.0) as usize
}

/// Whether the others will have done all that waits before this node had done one task of it: then
/// it would only hold up the end of a job.
pub(super) fn comes_too_late(pace: Duration, others: &[Load], waiting: Waiting) -> bool {
    let rate: f64 = others.iter().map(Load::documents_per_s).sum();
    let slots: f64 = others.iter().map(|load| f64::from(load.slots.max(1))).sum();
    if rate <= 0.0 || waiting.tasks == 0 {
        return false;
    }
    let (mine_s, theirs_s) = (pace.as_secs_f64(), slots / rate);
    if mine_s < SLOW * theirs_s {
        return false;
    }
    let task = waiting.documents as f64 / f64::from(waiting.tasks);
    let held: u64 = others.iter().map(|load| load.documents).sum();
    let all_s = (waiting.documents + held) as f64 / rate;
    mine_s * task > all_s + theirs_s * task
}

/// Whose turn it is among the shards where tasks wait: each is asked in proportion to the tenants
/// that wait there, so that one with many tasks cannot keep the others from their share.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Tasks asked for, over tenants waiting, by shard.
    asked: BTreeMap<GroupId, f64>,
}

impl Turns {
    /// Divides some tasks among the shards. `near` breaks ties: what is here costs no message.
    pub(super) fn divide(
        &mut self,
        waiting: &BTreeMap<GroupId, Waiting>,
        tasks: usize,
        near: impl Fn(GroupId) -> u64,
    ) -> BTreeMap<GroupId, u32> {
        self.asked.retain(|group, _| waiting.contains_key(group));
        // One that comes later starts level with the others: it has nothing to catch up.
        let level = self.asked.values().copied().fold(f64::INFINITY, f64::min);
        let level = if level.is_finite() { level } else { 0.0 };
        for &group in waiting.keys() {
            self.asked.entry(group).or_insert(level);
        }
        let mut shares: BTreeMap<GroupId, u32> = BTreeMap::new();
        for _ in 0..tasks {
            let has_more = |group: &GroupId| {
                waiting.get(group).map_or(0, |waiting| waiting.tasks)
                    > shares.get(group).copied().unwrap_or(0)
            };
            let open = self.asked.iter().filter(|(group, _)| has_more(group));
            let next = open
                .min_by(|(a, x), (b, y)| x.total_cmp(y).then_with(|| near(**a).cmp(&near(**b))));
            let Some((&group, _)) = next else { break };
            *shares.entry(group).or_default() += 1;
            let tenants = waiting.get(&group).map_or(1, |waiting| waiting.tenants.max(1));
            if let Some(asked) = self.asked.get_mut(&group) {
                *asked += 1.0 / f64::from(tenants);
            }
        }
        shares
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(9);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn fits(slots: usize, left: &[Duration], asked: usize) -> usize {
        room(slots, left.iter().copied(), asked)
    }

    #[test]
    fn a_slot_has_one_task_and_the_next_shortly_before_its_end() {
        assert_eq!(fits(2, &[], 0), 2);
        assert_eq!(fits(2, &[], 2), 0);
        assert_eq!(fits(2, &[LONG, LONG], 0), 0);
        assert_eq!(fits(2, &[LONG, ms(401)], 0), 0);
        assert_eq!(fits(2, &[LONG, ms(399)], 0), 1);
        assert_eq!(fits(2, &[LONG, ms(399), LONG], 0), 0);
        assert_eq!(fits(2, &[LONG, LONG, LONG], 1), 0);
    }

    #[test]
    fn of_short_tasks_there_are_as_many_as_last_for_a_while() {
        assert_eq!(fits(1, &[ms(80); 5], 0), 1);
        assert_eq!(fits(1, &[ms(80); 6], 0), 0);
        assert_eq!(fits(1, &[Duration::ZERO; 30], 0), 0);
    }

    fn load(slots: u32, documents: u64, document_us: u64) -> Load {
        Load { slots, documents, document_us, ..Load::default() }
    }

    #[test]
    fn a_slow_node_asks_for_nothing_when_others_are_done_sooner() {
        let others = [load(2, 0, 20_000), load(2, 0, 20_000)];
        let waiting = |tasks| Waiting { tasks, documents: u64::from(tasks) * 20, tenants: 1 };
        // Ten times as slow: 4 s for a task, in which the others do forty.
        let late = |tasks| comes_too_late(ms(200), &others, waiting(tasks));
        assert!(late(1) && late(35) && !late(37) && !late(1_000));
        // As fast as they are, it always helps; and alone it has to.
        assert!(!comes_too_late(ms(30), &others, waiting(1)));
        assert!(!comes_too_late(ms(200), &[], waiting(1)));
    }

    fn check(turns: &mut Turns, waiting: &[(u32, u32, u32)], tasks: usize, told: &[(u32, u32)]) {
        let waiting = waiting.iter().map(|&(group, tasks, tenants)| {
            (GroupId(group), Waiting { tasks, documents: u64::from(tasks), tenants })
        });
        let shares = turns.divide(&waiting.collect(), tasks, |group| u64::from(group.0));
        let told: BTreeMap<_, _> =
            told.iter().map(|&(group, tasks)| (GroupId(group), tasks)).collect();
        assert_eq!(shares, told);
    }

    #[test]
    fn shards_are_asked_by_the_tenants_that_wait_there() {
        let mut turns = Turns::default();
        check(&mut turns, &[(1, 900, 1), (2, 9, 1)], 4, &[(1, 2), (2, 2)]);
        check(&mut turns, &[(1, 900, 1), (2, 1, 1)], 4, &[(1, 3), (2, 1)]);
        let mut turns = Turns::default();
        check(&mut turns, &[(1, 900, 3), (2, 9, 1)], 8, &[(1, 6), (2, 2)]);
    }

    #[test]
    fn one_that_comes_later_has_nothing_to_catch_up() {
        let mut turns = Turns::default();
        check(&mut turns, &[(1, 900, 1)], 50, &[(1, 50)]);
        check(&mut turns, &[(1, 900, 1), (2, 900, 1)], 2, &[(1, 1), (2, 1)]);
        check(&mut turns, &[], 2, &[]);
    }
}

//! How much a node fetches, and from which shard next. Pure, so that it can be tested without time.

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::GroupId;
use protocol::peer::Waiting;

use crate::jobs::Load;

/// Of its room that a task takes however short it is: it has to be fetched and stored.
const SHARE_LEAST: f64 = 0.05;
/// A node this much slower than the others looks whether its help still helps.
const SLOW: f64 = 2.0;

/// Tasks that fit in: one per slot. One of which no more than `lead` is left makes room for the next, so
/// that it is here in time; of short ones there are as many as last for twice that.
pub(super) fn room(
    slots: usize,
    left: impl Iterator<Item = Duration>,
    asked: usize,
    lead: Duration,
) -> usize {
    let share = |left: Duration| left.div_duration_f64(lead * 2).clamp(SHARE_LEAST, 1.0);
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

/// Whose turn it is among the shards where tasks wait: each gives documents in proportion to the
/// weights of the tenants that wait there, so that one with many tasks cannot keep the others from
/// their share.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Documents that a shard gave, over the weights of those who waited there then.
    given: BTreeMap<GroupId, f64>,
}

impl Turns {
    /// Divides some tasks among the shards that are `open`. `near` breaks ties: what is here costs no
    /// message.
    pub(super) fn divide(
        &mut self,
        waiting: &BTreeMap<GroupId, Waiting>,
        tasks: usize,
        open: impl Fn(&GroupId) -> bool,
        near: impl Fn(GroupId) -> u64,
    ) -> BTreeMap<GroupId, u32> {
        self.given.retain(|group, _| waiting.contains_key(group));
        // One that comes later starts level with the others: it has nothing to catch up.
        let level = self.given.values().copied().fold(f64::INFINITY, f64::min);
        let level = if level.is_finite() { level } else { 0.0 };
        for &group in waiting.keys() {
            self.given.entry(group).or_insert(level);
        }
        let mut turns: Vec<Turn> = waiting
            .iter()
            .filter(|(group, _)| open(group))
            .map(|(&group, waiting)| Turn {
                group,
                given: self.given.get(&group).copied().unwrap_or(level),
                near: near(group),
                left: waiting.tasks,
                cost: waiting.documents as f64
                    / f64::from(waiting.tasks.max(1))
                    / waiting.weight.max(1) as f64,
            })
            .collect();
        let mut shares: BTreeMap<GroupId, u32> = BTreeMap::new();
        for _ in 0..tasks {
            let having = turns.iter_mut().filter(|turn| turn.left > 0);
            let next = having.min_by(|a, b| a.given.total_cmp(&b.given).then(a.near.cmp(&b.near)));
            let Some(next) = next else { break };
            next.left -= 1;
            next.given += next.cost;
            *shares.entry(next.group).or_default() += 1;
        }
        shares
    }

    /// A shard gave so many documents, of tenants of so much weight.
    pub(super) fn had(&mut self, group: GroupId, documents: u64, weight: u64) {
        if let Some(given) = self.given.get_mut(&group) {
            *given += documents as f64 / weight.max(1) as f64;
        }
    }
}

/// What is looked at to divide.
struct Turn {
    group: GroupId,
    given: f64,
    near: u64,
    left: u32,
    cost: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(9);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn fits(slots: usize, left: &[Duration], asked: usize) -> usize {
        room(slots, left.iter().copied(), asked, ms(400))
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
        let waiting = |tasks| Waiting { tasks, documents: u64::from(tasks) * 20, weight: 1 };
        // Ten times as slow: 4 s for a task, in which the others do forty.
        let late = |tasks| comes_too_late(ms(200), &others, waiting(tasks));
        assert!(late(1) && late(35) && !late(37) && !late(1_000));
        // As fast as they are, it always helps; and alone it has to.
        assert!(!comes_too_late(ms(30), &others, waiting(1)));
        assert!(!comes_too_late(ms(200), &[], waiting(1)));
    }

    /// Shards with tasks of one document and the weight of who waits there; all that is asked for is
    /// given.
    fn check(turns: &mut Turns, waiting: &[(u32, u32, u64)], tasks: usize, told: &[(u32, u32)]) {
        let waiting = waiting.iter().map(|&(group, tasks, weight)| {
            (GroupId(group), Waiting { tasks, documents: u64::from(tasks), weight })
        });
        let waiting: BTreeMap<_, _> = waiting.collect();
        let shares = turns.divide(&waiting, tasks, |_| true, |group| u64::from(group.0));
        for (&group, &tasks) in &shares {
            turns.had(group, u64::from(tasks), waiting[&group].weight);
        }
        let told: BTreeMap<_, _> =
            told.iter().map(|&(group, tasks)| (GroupId(group), tasks)).collect();
        assert_eq!(shares, told);
    }

    #[test]
    fn shards_are_asked_by_the_weight_of_who_waits_there() {
        let mut turns = Turns::default();
        check(&mut turns, &[(1, 900, 1), (2, 9, 1)], 4, &[(1, 2), (2, 2)]);
        check(&mut turns, &[(1, 900, 1), (2, 1, 1)], 4, &[(1, 3), (2, 1)]);
        let mut turns = Turns::default();
        check(&mut turns, &[(1, 900, 3), (2, 9, 1)], 8, &[(1, 6), (2, 2)]);
    }

    #[test]
    fn what_was_given_counts_and_one_that_is_asked_keeps_its_account() {
        let mut turns = Turns::default();
        let large = Waiting { tasks: 90, documents: 900, weight: 1 };
        let small = Waiting { tasks: 90, documents: 90, weight: 1 };
        let waiting = BTreeMap::from([(GroupId(1), large), (GroupId(2), small)]);
        let near = |group: GroupId| u64::from(group.0);
        let mut ask = |open: &[u32]| {
            let open = |group: &GroupId| open.contains(&group.0);
            let shares = turns.divide(&waiting, 1, open, near);
            let (group, _) = shares.into_iter().next().unwrap();
            turns.had(group, if group.0 == 1 { 10 } else { 1 }, 1);
            group.0
        };
        assert_eq!(ask(&[1, 2]), 1);
        assert_eq!(ask(&[2]), 2);
        let next = [(); 10].map(|()| ask(&[1, 2]));
        assert_eq!(next, [2, 2, 2, 2, 2, 2, 2, 2, 2, 1]);
    }

    #[test]
    fn one_that_comes_later_has_nothing_to_catch_up() {
        let mut turns = Turns::default();
        check(&mut turns, &[(1, 900, 1)], 50, &[(1, 50)]);
        check(&mut turns, &[(1, 900, 1), (2, 900, 1)], 2, &[(1, 1), (2, 1)]);
        check(&mut turns, &[], 2, &[]);
    }
}

//! Calendars of tenants: where their days and months begin. The zones are embedded, so that every node
//! has the same; what a node says of them is stamped into the log, and `apply` asks nobody.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use protocol::{Name, Time};

/// Zones that were looked up.
static ZONES: Mutex<BTreeMap<Name, TimeZone>> = Mutex::new(BTreeMap::new());

/// Whether there is a zone of this IANA name.
#[must_use]
pub fn is_zone(name: &Name) -> bool {
    zone(name).is_some()
}

/// Seconds that a zone is east of UTC at a moment; 0 without a zone.
#[must_use]
pub fn offset_s(name: Option<&Name>, at: Time) -> i32 {
    let Some(zone) = name.and_then(zone) else { return 0 };
    timestamp(at).map_or(0, |at| zone.to_offset(at).seconds())
}

/// When the calendar month of a zone ends that a moment is in.
#[must_use]
pub fn month_ends(name: Option<&Name>, at: Time) -> Time {
    let utc = || at.month().next().start();
    let Some(zone) = name.and_then(zone) else { return utc() };
    let Some(now) = timestamp(at) else { return utc() };
    let first = now.to_zoned(zone.clone()).date().last_of_month().tomorrow();
    first.ok().and_then(|first| begins(first, zone)).unwrap_or_else(utc)
}

fn begins(date: Date, zone: TimeZone) -> Option<Time> {
    let begin = date.to_zoned(zone).ok()?.timestamp().as_millisecond();
    u64::try_from(begin).ok().map(Time)
}

fn timestamp(at: Time) -> Option<Timestamp> {
    Timestamp::from_millisecond(i64::try_from(at.0).ok()?).ok()
}

fn zone(name: &Name) -> Option<TimeZone> {
    if let Some(zone) = zones().get(name) {
        return Some(zone.clone());
    }
    // Names are matched as they are written: one spelling for one zone.
    let zone = jiff::tz::db().get(name.as_str()).ok()?;
    if zone.iana_name() != Some(name.as_str()) {
        return None;
    }
    zones().insert(name.clone(), zone.clone());
    Some(zone)
}

fn zones() -> MutexGuard<'static, BTreeMap<Name, TimeZone>> {
    ZONES.lock().unwrap_or_else(|_| std::process::abort())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    #[test]
    fn offsets_and_months_follow_the_zone_through_its_clock_changes() {
        let berlin = name("Europe/Berlin");
        // 2026-03-29T00:59:59Z and a second later: one hour more.
        let before = Time(1_774_745_999_000);
        assert_eq!(offset_s(Some(&berlin), before), 3_600);
        assert_eq!(offset_s(Some(&berlin), before.plus_ms(1_000)), 7_200);
        // March ends at 2026-03-31T22:00:00Z there, an hour before what its winter offset says.
        assert_eq!(month_ends(Some(&berlin), before).to_string(), "2026-03-31T22:00:00.000Z");
        let auckland = name("Pacific/Auckland");
        let late = Time(1_795_990_000_000);
        assert_eq!(late.to_string(), "2026-11-29T22:06:40.000Z");
        assert_eq!(month_ends(Some(&auckland), late).to_string(), "2026-11-30T11:00:00.000Z");
        assert_eq!(month_ends(None, late).to_string(), "2026-12-01T00:00:00.000Z");
    }

    #[test]
    fn only_iana_names_are_zones() {
        assert!(is_zone(&name("UTC")) && is_zone(&name("America/New_York")));
        for wrong in ["Mars/Base", "europe/berlin", "CET+1", "../etc/passwd", "12"] {
            assert!(!is_zone(&name(wrong)), "{wrong}");
        }
    }
}

//! Calendars of tenants: where their days and months begin. The zones are embedded, so that every node
//! has the same; what a node says of them is stamped into the log, and `apply` asks nobody.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use protocol::time::Offset;
use protocol::{Name, Time};

/// Zones that were looked up.
static ZONES: Mutex<BTreeMap<Name, TimeZone>> = Mutex::new(BTreeMap::new());

/// Whether there is a zone of this IANA name.
#[must_use]
pub fn is_zone(name: &Name) -> bool {
    zone(name).is_some()
}

/// Where a zone is at a moment, and when that day and that month end; UTC without a zone.
#[must_use]
pub fn offset(name: Option<&Name>, at: Time) -> Offset {
    let Some(zone) = name.and_then(zone) else { return Offset::default() };
    let Some(now) = timestamp(at) else { return Offset::default() };
    let now_s = zone.to_offset(now).seconds();
    let date = zone.to_datetime(now).date();
    let end_s = |last: Date| last.tomorrow().ok().and_then(|next| begin_s(next, &zone));
    Offset {
        now_s,
        day_end_s: end_s(date).unwrap_or(now_s),
        month_end_s: end_s(date.last_of_month()).unwrap_or(now_s),
    }
}

/// The offset by which the midnight of a date is the moment at which the date begins: where clocks
/// skip midnight, that is when they do.
fn begin_s(date: Date, zone: &TimeZone) -> Option<i32> {
    let begin = date.to_zoned(zone.clone()).ok()?.timestamp().as_second();
    let midnight = date.to_zoned(TimeZone::UTC).ok()?.timestamp().as_second();
    i32::try_from(midnight - begin).ok()
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
    use protocol::Stamp;

    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    fn stamp(zone: Option<&Name>, time: Time) -> Stamp {
        Stamp { time, offset: offset(zone, time), ..Stamp::default() }
    }

    #[test]
    fn days_and_months_end_by_the_clocks_of_the_zone_through_its_changes() {
        let berlin = name("Europe/Berlin");
        // 2026-03-29T00:59:59Z and a second later: one hour more.
        let before = Time(1_774_745_999_000);
        let early = stamp(Some(&berlin), before);
        assert_eq!(early.offset, Offset { now_s: 3_600, day_end_s: 7_200, month_end_s: 7_200 });
        let late = stamp(Some(&berlin), before.plus_ms(1_000));
        assert_eq!(late.offset.now_s, 7_200);
        for stamp in [early, late] {
            // That day has 23 hours.
            assert_eq!(stamp.day_ends().to_string(), "2026-03-29T22:00:00.000Z");
            assert_eq!(stamp.month_ends().to_string(), "2026-03-31T22:00:00.000Z");
        }
        // Minutes are counted alike in all zones, so that none comes twice when clocks go back.
        assert_eq!(early.minute(), stamp(None, before).minute());
        assert_eq!(early.minute_ends().to_string(), "2026-03-29T01:00:00.000Z");
        let auckland = name("Pacific/Auckland");
        let late = Time(1_795_990_000_000);
        assert_eq!(late.to_string(), "2026-11-29T22:06:40.000Z");
        let there = stamp(Some(&auckland), late);
        assert_eq!(there.month_ends().to_string(), "2026-11-30T11:00:00.000Z");
        assert_eq!(stamp(None, late).month_ends().to_string(), "2026-12-01T00:00:00.000Z");
        assert_eq!(stamp(None, late).day_ends().to_string(), "2026-11-30T00:00:00.000Z");
    }

    #[test]
    fn a_day_that_has_no_midnight_begins_when_clocks_are_changed() {
        // Clocks go from 00:00 to 01:00 on 2026-09-06 in Santiago.
        let santiago = name("America/Santiago");
        let eve = stamp(Some(&santiago), Time(1_788_660_000_000));
        assert_eq!(eve.time.to_string(), "2026-09-06T02:00:00.000Z");
        assert_eq!(eve.day_ends().to_string(), "2026-09-06T04:00:00.000Z");
    }

    #[test]
    fn only_iana_names_are_zones() {
        assert!(is_zone(&name("UTC")) && is_zone(&name("America/New_York")));
        for wrong in ["Mars/Base", "europe/berlin", "CET+1", "../etc/passwd", "12"] {
            assert!(!is_zone(&name(wrong)), "{wrong}");
        }
    }
}

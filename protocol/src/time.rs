//! Points in time as the replicated state keeps them: milliseconds, never a clock.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Milliseconds since 1970-01-01T00:00:00Z. Text form RFC 3339 UTC with milliseconds and `Z`.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
pub struct Time(pub u64);

/// A calendar month in UTC. Text form `2026-11`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Month {
    pub year: u32,
    /// 1..=12
    pub month: u8,
}

/// Milliseconds that owners of a group have been in office. It runs at the pace of the owner's
/// monotonic clock and stands still between two ownerships, so no wall clock can hurry it: what is
/// refilled by it is never refilled too early.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
pub struct Steady(pub u64);

/// When a command was made, by the clocks of the owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Stamp {
    /// Shard time.
    pub time: Time,
    pub steady: Steady,
    /// Where the tenant's zone is; UTC where no tenant is concerned.
    pub offset: Offset,
}

/// Seconds that a zone is east of UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Offset {
    /// At the moment that the stamp tells.
    pub now_s: i32,
    /// When that day ends; another where clocks are changed meanwhile.
    pub day_end_s: i32,
    /// When that month ends.
    pub month_end_s: i32,
}

const MINUTE_MS: u64 = 60_000;
const DAY_MS: u64 = 86_400_000;

/// The moment at which clocks at an offset show `local_ms`.
fn utc(local_ms: u64, offset_s: i32) -> Time {
    Time(local_ms.saturating_add_signed(-i64::from(offset_s) * 1000))
}

impl Steady {
    /// Milliseconds from `earlier` to this; 0 when `earlier` is later.
    #[must_use]
    pub fn ms_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl Stamp {
    /// A stamp of a command that concerns no tenant and no limit.
    #[must_use]
    pub fn at(time: Time) -> Self {
        Self { time, ..Self::default() }
    }

    /// What the tenant's wall clock shows, as if its zone were UTC.
    #[must_use]
    pub fn local(self) -> Time {
        Time(self.time.0.saturating_add_signed(i64::from(self.offset.now_s) * 1000))
    }

    /// The tenant's calendar month.
    #[must_use]
    pub fn month(self) -> Month {
        self.local().month()
    }

    /// When the tenant's next month begins.
    #[must_use]
    pub fn month_ends(self) -> Time {
        utc(self.month().next().start().0, self.offset.month_end_s)
    }

    /// When the tenant's next day begins.
    #[must_use]
    pub fn day_ends(self) -> Time {
        utc((self.day() + 1) * DAY_MS, self.offset.day_end_s)
    }

    /// When the next minute begins.
    #[must_use]
    pub fn minute_ends(self) -> Time {
        Time((self.minute() + 1) * MINUTE_MS)
    }

    /// The tenant's calendar day, counted from 1970-01-01.
    #[must_use]
    pub fn day(self) -> u64 {
        self.local().0 / DAY_MS
    }

    /// The minute, counted from 1970-01-01T00:00Z: minutes begin together in all zones, and unlike those
    /// that a zone's clocks show, they never come twice.
    #[must_use]
    pub fn minute(self) -> u64 {
        self.time.0 / MINUTE_MS
    }
}

impl Time {
    /// The moment `ms` milliseconds later; saturates at the end of representable time.
    #[must_use]
    pub fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` to this; 0 when `earlier` is later.
    #[must_use]
    pub fn ms_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The UTC month that this moment is in.
    #[must_use]
    pub fn month(self) -> Month {
        let (year, month, _) = civil(self.0 / 86_400_000);
        Month { year, month }
    }
}

impl Month {
    /// The month before.
    #[must_use]
    pub fn previous(self) -> Self {
        match self.month {
            1 => Self { year: self.year - 1, month: 12 },
            month => Self { month: month - 1, ..self },
        }
    }

    /// The month after.
    #[must_use]
    pub fn next(self) -> Self {
        match self.month {
            12 => Self { year: self.year + 1, month: 1 },
            month => Self { month: month + 1, ..self },
        }
    }

    /// Midnight UTC of its first day.
    #[must_use]
    pub fn start(self) -> Time {
        Time(days_to(self.year, self.month) * 86_400_000)
    }
}

impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.year, self.month)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil(self.0 / 86_400_000);
        let ms = self.0 % 86_400_000;
        let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z",
            ms % 1000
        )
    }
}

/// Year, month and day of a day number since 1970-01-01. Source: H. Hinnant, "chrono-compatible
/// low-level date algorithms", `civil_from_days`, for days that are not negative.
fn civil(days: u64) -> (u32, u8, u8) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year as u32, month as u8, day as u8)
}

/// Day number of the first of a month; the inverse of [`civil`], same source.
fn days_to(year: u32, month: u8) -> u64 {
    let year = u64::from(year) - u64::from(month <= 2);
    let era = year / 400;
    let year_of_era = year % 400;
    let shifted_month = u64::from(if month > 2 { month - 3 } else { month + 9 });
    let day_of_year = (153 * shifted_month + 2) / 5;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments_read_as_rfc_3339() {
        assert_eq!(Time(0).to_string(), "1970-01-01T00:00:00.000Z");
        assert_eq!(Time(1_709_251_199_999).to_string(), "2024-02-29T23:59:59.999Z");
        assert_eq!(Time(1_795_219_200_123).to_string(), "2026-11-21T00:00:00.123Z");
    }

    #[test]
    fn months_start_where_they_say() {
        let mut month = Time(0).month();
        for _ in 0..2000 {
            assert_eq!(month.start().month(), month);
            assert_eq!(Time(month.next().start().0 - 1).month(), month);
            assert_eq!(month.next().previous(), month);
            month = month.next();
        }
    }
}

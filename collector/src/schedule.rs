//! Cron expressions: when something is due on the wall clock of a time zone.
//!
//! It owns the reading of an expression and the way from one moment to the next one. The time zone is the last
//! part of the expression (`0 3 * * 0 Europe/Paris`), UTC where none is given. It knows no clock and no job.
//!
//! Where clocks are put forward, an hour of the day that does not exist that day is the first moment after it; where
//! they are put back, an hour that comes twice counts the first time. So a nightly job runs once a night. What comes
//! every hour (`*` or `*/n` for the hour) follows the time that passes instead, as cron has done since Vixie's.

use std::{fmt, str::FromStr, time::Duration};

use cronexpr::{Crontab, FallbackTimezoneOption, MakeTimestamp, ParseOptions};
use jiff::{civil::DateTime, tz::TimeZone};
use rollcall_common::time::Timestamp;

/// Longest expression, in bytes.
const MAX_TEXT: usize = 128;
/// Times of the day that are passed over because they came already, before clocks were put back: a day of minutes.
const MAX_PASSED: usize = 1_440;

/// A valid cron expression.
#[derive(Debug, Clone)]
pub struct Schedule {
    text: String,
    way: Way,
}

/// How the next moment is found.
#[derive(Debug, Clone)]
enum Way {
    /// On the time that passes.
    Hourly(Crontab),
    /// On the face of the clock: the expression is read as UTC, and what it says is the zone's local time.
    Daily(Crontab, TimeZone),
}

/// A text that is no cron expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no schedule: {why}; write minute hour day month weekday [zone], as in \"0 2 * * *\" or \"30 3 * * 0 Europe/Paris\""
)]
pub struct ScheduleError {
    text: String,
    why: String,
}

impl Schedule {
    /// The expression as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The next moment after another one; `None` where there is none within four years.
    #[must_use]
    pub fn after(&self, moment: Timestamp) -> Option<Timestamp> {
        let moment = jiff::Timestamp::from_millisecond(moment.0).ok()?;
        let next = match &self.way {
            Way::Hourly(crontab) => crontab.find_next(MakeTimestamp(moment)).ok()?.timestamp(),
            Way::Daily(crontab, zone) => {
                let mut face = zone.to_datetime(moment);
                let mut found = None;
                for _ in 0..MAX_PASSED {
                    let utc = TimeZone::UTC.to_timestamp(face).ok()?;
                    face = crontab.find_next(MakeTimestamp(utc)).ok()?.datetime();
                    let at = first(zone, face)?;
                    if at > moment {
                        found = Some(at);
                        break;
                    }
                }
                found?
            }
        };
        Some(Timestamp(next.as_millisecond()))
    }

    /// Where occurrences of a length stand at a moment: the end of the one that runs, if one does, and the next
    /// moment after which the answer may be another one. Where several overlap, the last one counts.
    #[must_use]
    pub fn occurrence(&self, length: Duration, moment: Timestamp) -> (Option<Timestamp>, Option<Timestamp>) {
        let next = self.after(moment);
        // An occurrence that ends at this very moment is over.
        let end = self.last(moment.before(length), moment).map(|begin| begin.after(length));
        // Whoever overlaps goes on: the answer changes at the next begin, or at the end.
        (end, [end, next].into_iter().flatten().min())
    }

    /// The last moment after one and not after another, found by halving.
    fn last(&self, after: Timestamp, until: Timestamp) -> Option<Timestamp> {
        let within = |from: Timestamp| self.after(from).filter(|at| *at <= until);
        let mut found = within(after)?;
        let mut end = until;
        while found < end {
            let middle = Timestamp(found.0 + (end.0 - found.0) / 2);
            match within(middle) {
                Some(later) => found = later,
                None if middle == found => break,
                None => end = middle,
            }
        }
        Some(found)
    }
}

/// When the clocks of a zone show a time for the first time, or when they pass over it.
fn first(zone: &TimeZone, face: DateTime) -> Option<jiff::Timestamp> {
    match zone.to_ambiguous_timestamp(face).offset() {
        jiff::tz::AmbiguousOffset::Gap { after, .. } => {
            // Reckoned by what holds afterwards, it lies just before the clocks are put forward.
            let before = after.to_timestamp(face).ok()?;
            zone.following(before).next().map(|change| change.timestamp())
        }
        jiff::tz::AmbiguousOffset::Unambiguous { offset } => offset.to_timestamp(face).ok(),
        jiff::tz::AmbiguousOffset::Fold { before, .. } => before.to_timestamp(face).ok(),
    }
}

impl FromStr for Schedule {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Self, ScheduleError> {
        let bad = |why: String| ScheduleError { text: text.chars().take(MAX_TEXT).collect(), why };
        if text.len() > MAX_TEXT {
            return Err(bad(format!("it has over {MAX_TEXT} characters")));
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') {
            return Err(bad("it holds other than plain letters, digits and signs".into()));
        }
        let text = text.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
        let mut options = ParseOptions::default();
        options.fallback_timezone_option = FallbackTimezoneOption::UTC;
        let read = |text: &str| {
            cronexpr::parse_crontab_with(text, options).map_err(|error| {
                // Its own words go over several lines, with a picture; the last line says why.
                let words = error.to_string();
                let line = words.lines().rev().map(|line| line.trim().trim_start_matches('^').trim());
                bad(line.clone().find(|line| !line.is_empty()).unwrap_or("it is not understood").to_owned())
            })
        };
        let whole = read(&text)?;
        let parts: Vec<&str> = text.split(' ').collect();
        let (hour, days) = (parts.get(1), [parts.get(2), parts.get(4)]);
        if days.into_iter().flatten().any(|part| part.contains(['L', 'l'])) {
            // The library's last day of the month never comes in December.
            return Err(bad("the last day (L) is not understood; name the days".into()));
        }
        let way = if hour.is_some_and(|hour| hour.starts_with('*')) {
            Way::Hourly(whole)
        } else {
            let zone = match parts.get(5) {
                Some(name) => TimeZone::get(name).map_err(|error| bad(error.to_string()))?,
                None => TimeZone::UTC,
            };
            let five = parts.get(..5).map(|five| five.join(" ")).unwrap_or_default();
            Way::Daily(read(&five)?, zone)
        };
        let schedule = Self { text, way };
        // "0 0 30 2 *" is well written and never comes. Any moment serves: four years hold every date.
        if schedule.after(Timestamp(0)).is_none() {
            return Err(ScheduleError { text: schedule.text, why: "it never comes".into() });
        }
        Ok(schedule)
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl PartialEq for Schedule {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Schedule {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp(text.parse::<jiff::Timestamp>().unwrap().as_millisecond())
    }

    fn schedule(text: &str) -> Schedule {
        text.parse().unwrap()
    }

    #[test]
    fn the_zone_is_part_of_the_expression_and_utc_without_one() {
        let next = |text: &str, from: &str| schedule(text).after(at(from)).unwrap();
        assert_eq!(next("0 2 * * *", "2026-11-21T01:59:59Z"), at("2026-11-21T02:00:00Z"));
        assert_eq!(next("0 2 * * *", "2026-11-21T02:00:00Z"), at("2026-11-22T02:00:00Z"), "after means after");
        assert_eq!(next("0 2 * * * Europe/Paris", "2026-11-21T02:00:00Z"), at("2026-11-22T01:00:00Z"));
        assert_eq!(next("0 3 * * 0  Europe/Paris", "2026-07-01T00:00:00Z"), at("2026-07-05T01:00:00Z"));
    }

    fn five(text: &str, from: &str) -> Vec<String> {
        let schedule = schedule(text);
        let mut moment = at(from);
        let mut next = || {
            moment = schedule.after(moment).unwrap();
            moment.to_string()
        };
        (0..5).map(|_| next().replace(":00.000Z", "Z")).collect()
    }

    /// In the night of 29 March 2026 there is no 02:30 in Paris, and on 25 October there are two.
    #[test]
    fn summer_time_neither_loses_nor_doubles_a_day() {
        let spring = |minute: &str| {
            [
                format!("2026-03-27T01:{minute}Z"),
                format!("2026-03-28T01:{minute}Z"),
                "2026-03-29T01:00Z".to_owned(),
                format!("2026-03-30T00:{minute}Z"),
                format!("2026-03-31T00:{minute}Z"),
            ]
        };
        assert_eq!(five("30 2 * * * Europe/Paris", "2026-03-26T12:00:00Z"), spring("30"));
        assert_eq!(five("0 2 * * * Europe/Paris", "2026-03-26T12:00:00Z"), spring("00"));
        assert_eq!(
            five("30 2 * * * Europe/Paris", "2026-10-23T12:00:00Z"),
            ["2026-10-24T00:30Z", "2026-10-25T00:30Z", "2026-10-26T01:30Z", "2026-10-27T01:30Z", "2026-10-28T01:30Z"]
        );
        // Begun while the hour is there for the second time.
        let second = schedule("30 2 * * * Europe/Paris").after(at("2026-10-25T01:10:00Z")).unwrap();
        assert_eq!(second, at("2026-10-26T01:30:00Z"));
        // A night of maintenance on a Sunday that has no two o'clock.
        let sunday = schedule("0 2 * * 0 Europe/Paris");
        let hour = Duration::from_secs(3_600);
        assert_eq!(sunday.occurrence(hour, at("2026-03-29T01:30:00Z")).0, Some(at("2026-03-29T02:00:00Z")));
        // Several times of a gap are one moment; what comes each hour follows the time that passes.
        assert_eq!(
            five("*/30 2 * * * Europe/Paris", "2026-03-28T01:10:00Z"),
            ["2026-03-28T01:30Z", "2026-03-29T01:00Z", "2026-03-30T00:00Z", "2026-03-30T00:30Z", "2026-03-31T00:00Z"]
        );
        assert_eq!(
            five("0 * * * * Europe/Paris", "2026-10-24T22:30:00Z"),
            ["2026-10-24T23:00Z", "2026-10-25T00:00Z", "2026-10-25T01:00Z", "2026-10-25T02:00Z", "2026-10-25T03:00Z"]
        );
    }

    #[test]
    fn what_is_no_schedule_is_refused_with_the_way_to_write_one() {
        for bad in [
            "",
            "* * * *",
            "61 * * * *",
            "0 2 * * * Mars/Base",
            "0 0 30 2 *",
            "0 2\n* * *",
            "ä * * * *",
            "@daily",
            "0 2 L * *",
            "0 2 * * 5L",
        ] {
            let told = bad.parse::<Schedule>().unwrap_err().to_string();
            assert!(told.contains("minute hour day month weekday"), "{bad}: {told}");
            assert!(!told.contains('\n'), "{bad}: {told}");
        }
        assert!("0 ".repeat(100).parse::<Schedule>().is_err());
    }

    #[test]
    fn an_occurrence_runs_from_its_begin_to_before_its_end() {
        let weekly = schedule("0 3 * * 0");
        let hours = |n: u64| Duration::from_secs(n * 3_600);
        let sunday = at("2026-11-22T03:00:00Z");
        assert_eq!(weekly.occurrence(hours(2), Timestamp(sunday.0 - 1)), (None, Some(sunday)));
        let end = sunday.after(hours(2));
        assert_eq!(weekly.occurrence(hours(2), sunday), (Some(end), Some(end)));
        assert_eq!(weekly.occurrence(hours(2), Timestamp(end.0 - 1)), (Some(end), Some(end)));
        assert_eq!(weekly.occurrence(hours(2), end), (None, Some(sunday.after(hours(7 * 24)))));
    }

    #[test]
    fn occurrences_that_overlap_go_on() {
        let hourly = schedule("0 * * * *");
        let noon = at("2026-11-22T12:00:00Z");
        let long = Duration::from_secs(90 * 60);
        let (end, next) = hourly.occurrence(long, noon);
        assert_eq!((end, next), (Some(noon.after(long)), Some(noon.after(Duration::from_secs(3_600)))));
        let each_minute = schedule("* * * * *");
        let (day, minute) = (Duration::from_secs(86_400), Duration::from_secs(60));
        let (end, next) = each_minute.occurrence(day, Timestamp(noon.0 + 1));
        assert_eq!((end, next), (Some(noon.after(day)), Some(noon.after(minute))), "however many there are");
    }

    proptest! {
        #[test]
        fn hostile_text_never_panics(text in "\\PC{0,60}") {
            if let Ok(schedule) = text.parse::<Schedule>() {
                let _ = schedule.after(Timestamp(0));
            }
        }

        /// An occurrence is what it is by its definition: some begin lies within its length before the moment.
        #[test]
        fn occurrences_agree_with_their_definition(minute in 0..60_i64, length in 1..200_u64, moment in 0..20_000_i64) {
            let schedule = schedule(&format!("{minute} */2 * * *"));
            let begin = at("2026-11-22T00:00:00Z");
            let moment = begin.after(Duration::from_secs(u64::try_from(moment).unwrap()));
            let length = Duration::from_secs(length * 60);
            let (end, next) = schedule.occurrence(length, moment);
            let mut naive = None;
            let mut start = schedule.after(begin.before(Duration::from_secs(86_400))).unwrap();
            while start <= moment {
                if start.after(length) > moment {
                    naive = Some(start.after(length));
                }
                start = schedule.after(start).unwrap();
            }
            prop_assert_eq!(end, naive);
            prop_assert!(next.is_some_and(|next| next > moment));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        /// Over a year of both changes a daily time comes once on each day of the calendar, in order.
        #[test]
        fn a_daily_time_comes_once_a_day(hour in 0..24_u8, minute in 0..60_u8, zone in 0..5_usize) {
            let zone = ["Europe/Paris", "America/Sao_Paulo", "Australia/Lord_Howe", "America/St_Johns", "UTC"][zone];
            let schedule = schedule(&format!("{minute} {hour} * * * {zone}"));
            let zone = TimeZone::get(zone).unwrap();
            // Sao Paulo had summer time until 2019, begun at midnight.
            let mut moment = at("2018-01-01T12:00:00Z");
            let mut day = None;
            for _ in 0..400 {
                moment = schedule.after(moment).unwrap();
                let face = zone.to_datetime(jiff::Timestamp::from_millisecond(moment.0).unwrap());
                prop_assert!(day.is_none_or(|day: jiff::civil::Date| day.tomorrow().unwrap() == face.date()), "{face}");
                day = Some(face.date());
            }
        }
    }
}

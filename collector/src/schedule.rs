//! Cron expressions: when something is due on the wall clock of a time zone.
//!
//! It owns the reading of an expression and the way from one moment to the next one. The time zone is the last
//! part of the expression (`0 3 * * 0 Europe/Paris`), UTC where none is given; a change to or from summer time is
//! the zone's own affair. It knows no clock and no job.

use std::{fmt, str::FromStr, time::Duration};

use cronexpr::{Crontab, FallbackTimezoneOption, MakeTimestamp, ParseOptions};
use rollcall_common::time::Timestamp;

/// Longest expression, in bytes.
const MAX_TEXT: usize = 128;
/// Occurrences that may run at once: more are looked at as one.
const MAX_OVERLAP: usize = 64;

/// A valid cron expression.
#[derive(Debug, Clone)]
pub struct Schedule {
    text: String,
    crontab: Crontab,
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
        let moment = MakeTimestamp::from_millisecond(moment.0).ok()?;
        let next = self.crontab.find_next(moment).ok()?;
        Some(Timestamp(next.timestamp().as_millisecond()))
    }

    /// Where occurrences of a length stand at a moment: the end of the one that runs, if one does, and the next
    /// moment after which the answer may be another one.
    #[must_use]
    pub fn occurrence(&self, length: Duration, moment: Timestamp) -> (Option<Timestamp>, Option<Timestamp>) {
        // An occurrence that ends at this very moment is over.
        let mut end = None;
        let mut start = self.after(moment.before(length));
        for _ in 0..MAX_OVERLAP {
            match start {
                Some(at) if at <= moment => {
                    end = Some(at.after(length));
                    start = self.after(at);
                }
                Some(_) | None => break,
            }
        }
        match (end, start) {
            // Whoever overlaps goes on: the answer changes at the next begin, or at the end.
            (Some(end), Some(next)) => (Some(end), Some(end.min(next))),
            (Some(end), None) => (Some(end), Some(end)),
            (None, next) => (None, next),
        }
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
        let crontab = cronexpr::parse_crontab_with(&text, options).map_err(|error| {
            // Its own words go over several lines, with a picture; the last line says why.
            let words = error.to_string();
            let line = words.lines().rev().map(|line| line.trim().trim_start_matches('^').trim());
            bad(line.clone().find(|line| !line.is_empty()).unwrap_or("it is not understood").to_owned())
        })?;
        let schedule = Self { text, crontab };
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

    /// In the night of 29 March 2026 there is no 02:30 in Paris, and on 25 October there are two.
    #[test]
    fn summer_time_neither_loses_nor_doubles_a_day() {
        let nightly = schedule("30 2 * * * Europe/Paris");
        let mut moment = at("2026-03-26T12:00:00Z");
        let mut days = Vec::new();
        for _ in 0..5 {
            moment = nightly.after(moment).unwrap();
            days.push(moment);
        }
        assert!(days.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(days.last().unwrap() <= &at("2026-04-01T12:00:00Z"), "{days:?}");
    }

    #[test]
    fn what_is_no_schedule_is_refused_with_the_way_to_write_one() {
        for bad in
            ["", "* * * *", "61 * * * *", "0 2 * * * Mars/Base", "0 0 30 2 *", "0 2\n* * *", "ä * * * *", "@daily"]
        {
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
            prop_assert!(next.is_none_or(|next| next > moment));
        }
    }
}

//! When to read the pair of files again, and when to remind of its end; pure.

use std::{fs::Metadata, os::unix::fs::MetadataExt as _, path::Path, time::Duration};

use rollcall_common::time::Timestamp;

/// Time before the end of a certificate from which on somebody is told.
pub(super) const REMIND_BEFORE: Duration = Duration::from_secs(14 * 86_400);
/// Time between two reminders of one certificate.
const REMIND_EVERY: Duration = Duration::from_secs(86_400);

/// What tells one state of a file from another; `None` where there is no file.
pub(super) type Mark = Option<[u64; 6]>;

/// The states of both files.
pub(super) type Marks = [Mark; 2];

/// Looks at a file as it is reached, through links.
pub(super) fn mark(path: &Path) -> Mark {
    let of = |data: Metadata| {
        let time = |secs: i64, nanos: i64| {
            secs.cast_unsigned().wrapping_mul(1_000_000_000).wrapping_add(nanos.cast_unsigned())
        };
        let (written, changed) = (time(data.mtime(), data.mtime_nsec()), time(data.ctime(), data.ctime_nsec()));
        [data.dev(), data.ino(), data.size(), written, changed, u64::from(data.mode())]
    };
    std::fs::metadata(path).ok().map(of)
}

/// Decides when the files are worth reading.
#[derive(Debug)]
pub(super) struct Watch {
    /// What was read last, with whatever success.
    tried: Marks,
    /// What the last look found.
    seen: Marks,
}

impl Watch {
    /// The files were read in this state.
    pub(super) fn new(tried: Marks) -> Self {
        Self { tried, seen: tried }
    }

    /// Whether to read now: what is found differs from what was read, and stood still between two looks. A
    /// certificate and its key are seldom written in one step, and half a pair is no news.
    pub(super) fn look(&mut self, found: Marks) -> bool {
        let still = found == self.seen;
        self.seen = found;
        let due = still && found != self.tried;
        if due {
            self.tried = found;
        }
        due
    }

    /// Somebody had the files read.
    pub(super) fn read(&mut self, found: Marks) {
        *self = Self::new(found);
    }
}

/// Decides when to remind of a certificate's end.
#[derive(Debug, Default)]
pub(super) struct Reminder {
    last: Option<(Timestamp, Timestamp)>,
}

impl Reminder {
    /// Whether to tell now: near the end or behind it, once a day, and at once for another certificate.
    pub(super) fn due(&mut self, not_after: Timestamp, now: Timestamp) -> bool {
        if now.after(REMIND_BEFORE) < not_after {
            self.last = None;
            return false;
        }
        let told = self.last.is_some_and(|(end, at)| end == not_after && now < at.after(REMIND_EVERY));
        if !told {
            self.last = Some((not_after, now));
        }
        !told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(cert: u64, key: u64) -> Marks {
        [Some([1, cert, 0, 0, 0, 0]), Some([1, key, 0, 0, 0, 0])]
    }

    #[test]
    fn a_pair_is_read_once_and_only_when_it_stands_still() {
        let mut watch = Watch::new(marks(1, 1));
        assert!(!watch.look(marks(1, 1)) && !watch.look(marks(1, 1)));
        assert!(!watch.look(marks(2, 1)), "only the certificate is there yet");
        assert!(!watch.look(marks(2, 2)), "it moved since the last look");
        assert!(watch.look(marks(2, 2)));
        assert!(!watch.look(marks(2, 2)), "a pair that was read is not read again, whatever came of it");
        assert!(!watch.look([None, None]));
        assert!(watch.look([None, None]), "a pair that is gone is worth telling");
        watch.read(marks(3, 3));
        assert!(!watch.look(marks(3, 3)));
        // Back to what was there before is a change too.
        assert!(!watch.look(marks(2, 2)));
        assert!(watch.look(marks(2, 2)));
    }

    #[test]
    fn the_end_is_told_daily_from_two_weeks_before() {
        let (day, mut reminder) = (Duration::from_secs(86_400), Reminder::default());
        let end = Timestamp::from_secs(1_800_000_000);
        assert!(!reminder.due(end, end.before(day * 15)));
        assert!(reminder.due(end, end.before(day * 14)));
        assert!(!reminder.due(end, end.before(day * 13 + Duration::from_secs(1))));
        assert!(reminder.due(end, end.before(day * 13)));
        assert!(reminder.due(end, end.after(day)), "and after it");
        assert!(reminder.due(end.after(day), end.after(day)), "another certificate speaks for itself");
        assert!(!reminder.due(end.after(day * 90), end.after(day)));
    }

    #[test]
    fn a_replaced_file_has_another_mark() {
        let dir = tempfile::tempdir().unwrap();
        let (path, next) = (dir.path().join("a"), dir.path().join("b"));
        assert_eq!(mark(&path), None);
        std::fs::write(&path, "same").unwrap();
        std::fs::write(&next, "same").unwrap();
        let before = mark(&path);
        assert_eq!(before, mark(&path));
        std::fs::rename(&next, &path).unwrap();
        assert_ne!(before, mark(&path));
    }
}

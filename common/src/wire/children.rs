//! Child reports: what a sidecar says of services of its subtree that have no sidecar of their own.
//!
//! A batch promises to be repeated within its interval; whoever is in it lives by that promise. Both ends
//! agree on [`super::message::capability::CHILDREN`] in their greeting before the first batch is sent.

use serde::{Deserialize, Serialize};

use super::{MAX_FRAME, codec::encode, message::GoodbyeReason};
use crate::{
    code::Code,
    health::HealthReport,
    id::{ServiceId, ServiceKey},
    service::{CheckerKind, Pairs},
};

/// Most children in one batch; a sidecar with more of them sends several.
pub const MAX_CHILDREN: usize = 256;
/// Most children of one farewell; a sidecar that parts with more of them says several.
pub const MAX_GONE: usize = 64;
/// Shortest interval that a batch can promise, in milliseconds; less counts as this.
pub const MIN_INTERVAL_MS: u32 = 1_000;
/// Longest interval that a batch can promise, in milliseconds; more counts as this.
pub const MAX_INTERVAL_MS: u32 = 3_600_000;

/// What the head of a batch takes of its frame at most, in bytes.
const HEAD: usize = 32;

/// A batch of reports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Children {
    /// Counts the batches of a session; the answer repeats it.
    pub batch_no: u64,
    /// Milliseconds within which each of these children is reported again.
    pub interval_ms: u32,
    /// At most [`MAX_CHILDREN`].
    pub children: Vec<ChildReport>,
}

/// One child, seen by its parent's sidecar.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildReport {
    /// Who.
    pub child: ServiceKey,
    /// Its parent's id; may be left out where that is the reporter itself.
    pub parent: Option<ServiceId>,
    /// What is said of it.
    pub report: HealthReport,
    /// What it takes to register it, where it is unknown and policy allows it.
    pub about: Option<Box<ChildAbout>>,
}

/// What a parent knows of an unregistered child.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildAbout {
    /// For checkers.
    pub checker_kind: Option<CheckerKind>,
    /// Labels.
    pub labels: Pairs,
    /// Free metadata.
    pub metadata: Pairs,
}

/// Says goodbye for children, which are not reported again; answered like a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildrenGone {
    /// Counted with the batches of reports; the answer repeats it.
    pub batch_no: u64,
    /// At most [`MAX_GONE`].
    pub children: Vec<ChildGone>,
}

/// One child that stops.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildGone {
    /// Who.
    pub child: ServiceKey,
    /// Its parent's id; may be left out where that is the reporter itself.
    pub parent: Option<ServiceId>,
    /// Why.
    pub reason: GoodbyeReason,
}

/// What became of a batch. Whoever is not refused was heard; whether that counts depends on who it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildrenAck {
    /// Which batch.
    pub batch_no: u64,
    /// Who was not heard.
    pub refused: Vec<ChildRefused>,
    /// Milliseconds to wait before the next batch because this one was too many, and nobody in it was
    /// heard; 0 when all is well.
    pub retry_after_ms: u32,
}

/// A child that was not heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildRefused {
    /// Its place in the batch, from 0.
    pub index: u16,
    /// Why.
    pub code: Code,
}

impl Children {
    /// Makes batches that fit their frames, numbered from `first_no` on. Reports that fit no frame of their
    /// own, because of all that they carry, are given back: nothing is ever cut to fit.
    #[must_use]
    pub fn batches(
        first_no: u64,
        interval_ms: u32,
        reports: impl IntoIterator<Item = ChildReport>,
    ) -> (Vec<Self>, Vec<ChildReport>) {
        let (mut batches, mut unfit): (Vec<Self>, Vec<ChildReport>) = (Vec::new(), Vec::new());
        let mut room = 0;
        for report in reports {
            // The prefix of a frame makes this a few bytes too much.
            let size = encode(&report).map_or(usize::MAX, |bytes| bytes.len());
            if size > MAX_FRAME - HEAD {
                unfit.push(report);
                continue;
            }
            match batches.last_mut() {
                Some(batch) if size <= room && batch.children.len() < MAX_CHILDREN => {
                    room -= size;
                    batch.children.push(report);
                }
                Some(_) | None => {
                    room = MAX_FRAME - HEAD - size;
                    let batch_no = first_no.saturating_add(u64::try_from(batches.len()).unwrap_or(u64::MAX));
                    batches.push(Self { batch_no, interval_ms, children: vec![report] });
                }
            }
        }
        (batches, unfit)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        health::{Health, Text},
        wire::{
            codec::decode,
            message::{Down, Up},
        },
    };

    fn heavy(pairs: usize, value: usize) -> Pairs {
        let pairs: BTreeMap<_, _> = (0..pairs).map(|n| (format!("{n:063}"), "v".repeat(value))).collect();
        pairs.try_into().expect("pairs")
    }

    fn report(n: usize, pairs: usize, reason: usize) -> ChildReport {
        let about = (pairs > 0).then(|| ChildAbout { labels: heavy(pairs, 256), ..ChildAbout::default() });
        ChildReport {
            child: format!("checker/c-{n}").parse().expect("a key"),
            parent: Some("edge-17".parse().expect("an id")),
            report: HealthReport { health: Health::Degraded, reason: Text::fit(&"r".repeat(reason)) },
            about: about.map(Box::new),
        }
    }

    #[test]
    fn the_longest_farewell_fits_a_frame() {
        let id = "x".repeat(64);
        let gone = ChildGone {
            child: format!("checker/{id}").parse().expect("a key"),
            parent: id.parse().ok(),
            reason: GoodbyeReason::Uninstall,
        };
        let farewell = ChildrenGone { batch_no: u64::MAX, children: vec![gone; MAX_GONE] };
        assert!(encode(&Up::ChildrenGone(Box::new(farewell))).is_ok());
    }

    #[test]
    fn what_fits_no_frame_is_given_back_whole() {
        let giant = ChildAbout { labels: heavy(32, 256), metadata: heavy(32, 256), ..ChildAbout::default() };
        let giant = ChildReport { about: Some(Box::new(giant)), ..report(1, 0, 0) };
        let (batches, unfit) = Children::batches(7, 1_000, [report(0, 0, 0), giant.clone(), report(2, 0, 0)]);
        assert_eq!(unfit, [giant]);
        assert_eq!(batches.iter().map(|batch| (batch.batch_no, batch.children.len())).collect::<Vec<_>>(), [(7, 2)]);
    }

    /// The longest answer fits a frame with room to spare.
    #[test]
    fn the_answer_to_a_full_batch_fits() {
        let refused =
            (0..MAX_CHILDREN).map(|n| ChildRefused { index: u16::try_from(n).unwrap_or(0), code: Code::Other(9_999) });
        let ack = ChildrenAck { batch_no: u64::MAX, refused: refused.collect(), retry_after_ms: u32::MAX };
        assert!(encode(&Down::Children(Box::new(ack))).is_ok_and(|frame| frame.len() < MAX_FRAME / 4));
    }

    proptest! {
        #[test]
        fn batches_fit_their_frames_and_lose_nobody(
            sizes in proptest::collection::vec((0usize..4, 0usize..256), 0..600),
        ) {
            let reports: Vec<_> = sizes.iter().enumerate().map(|(n, (pairs, reason))| report(n, *pairs, *reason)).collect();
            let (batches, unfit) = Children::batches(1, 60_000, reports.clone());
            prop_assert!(unfit.is_empty());
            let mut heard = Vec::new();
            for (n, batch) in batches.into_iter().enumerate() {
                prop_assert_eq!(batch.batch_no, n as u64 + 1);
                prop_assert!(!batch.children.is_empty() && batch.children.len() <= MAX_CHILDREN);
                let frame = encode(&Up::Children(Box::new(batch)));
                let frame = frame.map_err(|error| TestCaseError::fail(error.to_string()))?;
                let Ok(Up::Children(read)) = decode::<Up>(frame.get(4..).unwrap_or_default()) else {
                    return Err(TestCaseError::fail("it reads as something else"));
                };
                heard.extend(read.children);
            }
            prop_assert_eq!(heard, reports);
        }

        /// Whatever the bytes after the variant's number, reading them ends without harm.
        #[test]
        fn hostile_batches_are_refused_or_read(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let body = [&[8_u8], bytes.as_slice()].concat();
            if let Ok(up) = decode::<Up>(&body) {
                prop_assert!(matches!(up, Up::Children(_)));
                prop_assert!(encode(&up).is_ok());
            }
        }
    }
}

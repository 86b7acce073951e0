//! Between what the settings of a probe may lie, whoever sets them.

use std::{ops::RangeInclusive, time::Duration};

/// Time between two looks.
pub const INTERVALS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3_600);
/// What a look may take.
pub const TIMEOUTS: RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_secs(60);
/// Looks in a row that change what is said.
pub const STEADY: RangeInclusive<u32> = 1..=100;

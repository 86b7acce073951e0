//! What the collector recorded about our services, read through its API after the fact.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Result;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use rollcall_common::{id::ServiceKey, lease::Presence, time::Timestamp};
use serde::Serialize;

use super::{
    api::{Api, Row},
    quantile::{Quantiles, Summary},
};

/// Questions asked at once.
const PARALLEL: usize = 8;

/// A verdict that should not have fallen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FalseTransition {
    /// Of whom.
    pub service: String,
    /// What was said.
    pub presence: Presence,
    /// Why.
    pub cause: String,
    /// When.
    pub decided_at: String,
}

/// How long verdicts took.
#[derive(Debug, Clone, Serialize)]
pub struct Detection {
    /// Services that a verdict was due for.
    pub expected: usize,
    /// From the last accepted beat, or from the goodbye, to the verdict; by the collector's own rows.
    pub after: Option<Summary>,
}

impl Detection {
    /// Services whose verdict fell.
    #[must_use]
    pub fn found(&self) -> u64 {
        self.after.map_or(0, |summary| summary.count)
    }

    /// Services whose verdict did not fall.
    #[must_use]
    pub fn missing(&self) -> u64 {
        let found = self.found();
        u64::try_from(self.expected).unwrap_or(u64::MAX).saturating_sub(found)
    }
}

/// Verdicts since then about services that beat all the time: there must be none but `alive`.
///
/// # Errors
/// When the API does not answer.
pub async fn false_transitions(api: &Api, steady: &[ServiceKey], since: Timestamp) -> Result<Vec<FalseTransition>> {
    let rows = histories(api, steady.iter()).await?;
    let wrong = rows.into_iter().flat_map(|(service, rows)| {
        let wrong = rows.into_iter().filter(move |row| row.decided_at >= since && row.presence != Presence::Alive);
        wrong.map(move |row| FalseTransition {
            service: service.to_string(),
            presence: row.presence,
            cause: row.cause,
            decided_at: row.decided_at.to_string(),
        })
    });
    Ok(wrong.collect())
}

/// How long after their last accepted beat the killed were found lost.
///
/// # Errors
/// When the API does not answer.
pub async fn losses(api: &Api, killed: &[ServiceKey], since: Timestamp) -> Result<Detection> {
    let rows = histories(api, killed.iter()).await?;
    Ok(detection(killed.len(), rows.iter().filter_map(|(_, rows)| loss(rows, since))))
}

/// How long after their goodbye the stopped were found stopped.
///
/// # Errors
/// When the API does not answer.
pub async fn stops(api: &Api, stopped: &BTreeMap<ServiceKey, Timestamp>) -> Result<Detection> {
    let rows = histories(api, stopped.keys()).await?;
    let took = rows.iter().filter_map(|(service, rows)| {
        let said = *stopped.get(service)?;
        let row = rows.iter().find(|row| row.presence == Presence::Stopped && row.decided_at >= said)?;
        Some(row.decided_at.since(said))
    });
    Ok(detection(stopped.len(), took))
}

fn detection(expected: usize, took: impl Iterator<Item = Duration>) -> Detection {
    let mut after = Quantiles::default();
    took.for_each(|took| after.add(took));
    Detection { expected, after: after.summary() }
}

fn loss(rows: &[Row], since: Timestamp) -> Option<Duration> {
    let row = rows.iter().find(|row| row.presence == Presence::Lost && row.decided_at >= since)?;
    Some(row.decided_at.since(row.last_beat?))
}

async fn histories(api: &Api, services: impl Iterator<Item = &ServiceKey>) -> Result<Vec<(ServiceKey, Vec<Row>)>> {
    let asked = services.map(|service| async move { Ok((service.clone(), api.history(service).await?)) });
    stream::iter(asked).buffer_unordered(PARALLEL).try_collect().await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(presence: Presence, decided: i64, beat: i64) -> Row {
        Row { presence, cause: "ttl".into(), decided_at: Timestamp(decided), last_beat: Some(Timestamp(beat)) }
    }

    #[test]
    fn only_a_loss_of_this_run_counts() {
        let rows = [row(Presence::Alive, 90_000, 0), row(Presence::Lost, 80_050, 50_000), row(Presence::Lost, 9, 1)];
        assert_eq!(loss(&rows, Timestamp(60_000)), Some(Duration::from_millis(30_050)));
        assert_eq!(loss(&rows, Timestamp(85_000)), None);
    }

    #[test]
    fn missing_verdicts_are_told() {
        let found = detection(3, [Duration::from_millis(7), Duration::from_millis(9)].into_iter());
        assert_eq!((found.missing(), found.after.map(|after| after.max_ms)), (1, Some(9)));
        assert_eq!(detection(2, std::iter::empty()).missing(), 2);
    }
}

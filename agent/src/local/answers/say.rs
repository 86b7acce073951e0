//! What programs say: read from a body, checked, put on the health board under their own names.
//!
//! A name belongs to the user who said something under it first, until it is withdrawn or the sidecar restarts; root
//! and the sidecar's own user may take any.

use std::time::Duration;

use rollcall_common::{
    health::{Health, Text},
    id::{ServiceId, ServiceKey},
    time::BootTime,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{House, Peer};
use crate::health::{Fact, HealthBoard, Sort, Source, Statement, Subject, Unheard};

/// Shortest and longest time that something may be good for, in seconds.
pub(super) const TTL_SECS: std::ops::RangeInclusive<u64> = 1..=7 * 86_400;

/// The body of `POST /progress`; all of it may be left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// Who got on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<ServiceId>,
    /// How much is done; only another count is progress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// Seconds within which it will get on again; none: nobody waits for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within_s: Option<u64>,
    /// A child in place of the service itself, like `checker/snmp-1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub child: Option<String>,
    /// Forget what this name said.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub withdraw: bool,
}

/// The body of `POST /report`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// Who says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<ServiceId>,
    /// How it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// Why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Seconds within which it will be said again; none: it holds until something else is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_s: Option<u64>,
    /// A child in place of the service itself, like `checker/snmp-1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub child: Option<String>,
    /// Forget what this source said.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub withdraw: bool,
}

type Outcome = Result<(), (u16, String)>;

pub(super) fn progress(house: &House, peer: Peer, body: &[u8], now: BootTime) -> Outcome {
    let Progress { name, count, within_s, child, withdraw } =
        if body.trim_ascii().is_empty() { Progress::default() } else { read(body)? };
    let source = source(name, "progress", Fact::Progress)?;
    let statement = Statement {
        health: Health::Healthy,
        reason: Text::default(),
        as_of: now,
        stale_after: period("within_s", within_s)?,
        count,
        by: uid(peer),
    };
    put(house, peer, &subject(child)?, source, (!withdraw).then_some(statement), HealthBoard::progress)
}

pub(super) fn report(house: &House, peer: Peer, body: &[u8], now: BootTime) -> Outcome {
    let Report { source: name, health, reason, ttl_s, child, withdraw } = read(body)?;
    let source = source(name, "report", Fact::Service)?;
    let statement = match health {
        None if withdraw => None,
        None => return Err((422, "health is missing: healthy, degraded or unhealthy".into())),
        Some(_) if withdraw => return Err((422, "withdraw takes no health".into())),
        Some(Health::Unchecked) => return Err((422, "whoever reports has looked: withdraw instead".into())),
        Some(health) => Some(Statement {
            health,
            reason: Text::fit(&reason),
            as_of: now,
            stale_after: period("ttl_s", ttl_s)?,
            count: None,
            by: uid(peer),
        }),
    };
    put(house, peer, &subject(child)?, source, statement, HealthBoard::say)
}

fn put(
    house: &House,
    peer: Peer,
    subject: &Subject,
    source: Source,
    statement: Option<Statement>,
    say: impl FnOnce(&mut HealthBoard, &Subject, Source, Statement) -> Result<(), Unheard>,
) -> Outcome {
    house.health.edit(|board| {
        let before = board.said(subject, &source);
        let (uid, master) = (uid(peer), [Some(0), Some(house.me)].contains(&uid(peer)));
        if let Some(before) = before.filter(|before| !master && before.by != uid) {
            let owner = before.by.map_or("a caller on loopback".into(), |owner| format!("user {owner}"));
            return Err((403, format!("{source} is what {owner} says: take another name")));
        }
        let Some(statement) = statement else {
            board.withdraw(subject, &source);
            return Ok(());
        };
        say(board, subject, source, statement).map_err(|unheard| {
            let status = match unheard {
                Unheard::NoSuchChild(_) => 422,
                Unheard::Full => 409,
            };
            (status, unheard.to_string())
        })
    })
}

fn uid(peer: Peer) -> Option<u32> {
    match peer {
        Peer::Unix(uid) => uid,
        Peer::Loopback => None,
    }
}

fn subject(child: Option<String>) -> Result<Subject, (u16, String)> {
    match child {
        None => Ok(Subject::Own),
        Some(text) => match text.parse::<ServiceKey>() {
            Ok(child) => Ok(Subject::Child(child)),
            Err(error) => Err((422, format!("child: {error}"))),
        },
    }
}

fn source(name: Option<ServiceId>, otherwise: &str, fact: Fact) -> Result<Source, (u16, String)> {
    let name = match name {
        Some(name) => name,
        None => otherwise.parse().map_err(|error: rollcall_common::id::NameError| (500, error.to_string()))?,
    };
    Ok(Source { sort: Sort::Pushed, name, fact })
}

fn period(key: &str, secs: Option<u64>) -> Result<Option<Duration>, (u16, String)> {
    match secs {
        Some(secs) if !TTL_SECS.contains(&secs) => {
            Err((422, format!("{key}: give {} to {} seconds", TTL_SECS.start(), TTL_SECS.end())))
        }
        secs => Ok(secs.map(Duration::from_secs)),
    }
}

/// What does not read is told as far as it names no secret: a body is no place for one, and it comes from this host.
fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, (u16, String)> {
    serde_json::from_slice(body).map_err(|error| (400, format!("the body is no such JSON: {error}")))
}

//! Queries, read and applied.

use rollcall_common::{
    health::{HostFacts, Text},
    time::BootTime,
};

use super::*;
use crate::{
    http::fixture::{NOW, host, pairs, row, said, sight},
    registry::roster::Slot,
};

fn asked(kind: Option<Kind>, query: &str) -> Result<Wanted, Problem> {
    let pairs: Vec<_> = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    Wanted::read(kind, &pairs)
}

const HERE: Now = Now { wall: NOW, boot: BootTime(60_000) };

/// A lease last beaten at 07:59:55.
fn seen(presence: Presence) -> Option<Sight> {
    Some(sight(presence, (presence == Presence::Unknown).then_some(Unknown::Brake), HERE.boot))
}

fn entry(change: impl FnOnce(&mut ServiceRow)) -> Entry {
    let mut row = row("agent/edge-17");
    change(&mut row);
    Entry { slot: Slot::new(0, 0), row: row.into(), identity: None }
}

#[test]
fn nothing_asked_shows_everything() {
    let wanted = asked(None, "").unwrap();
    assert_eq!(wanted, Wanted { limit: 100, ..Wanted::default() });
    assert!(wanted.filter.passes(&entry(|_| {}), seen(Presence::Lost).as_ref(), HERE));
}

#[test]
fn each_test_lets_through_what_it_names() {
    let full = |row: &mut ServiceRow| {
        row.status = Status::Active;
        row.health = said(Health::Degraded, "disk");
        row.labels = pairs(&[("site", "3"), ("env", "Prod")]);
        row.metadata = pairs(&[("rack", "Zürich B7")]);
        row.component_id = Some("Comp-9".into());
        row.checker_kind = Some("snmp".parse().unwrap());
        row.facts = Some(HostFacts { agent_version: Text::new("1.2.3").unwrap(), ..host("Edge-Host-4") });
    };
    let entry = entry(full);
    for (query, passes) in [
        ("status=active", true),
        ("status=pending,active", true),
        ("status=pending", false),
        ("presence=late", true),
        ("presence=alive,lost", false),
        ("health=degraded", true),
        ("health=unchecked", false),
        ("source=config", true),
        ("source=implicit", false),
        ("parent=p", true),
        ("parent=q", false),
        ("checker_kind=snmp", true),
        ("checker_kind=icmp", false),
        ("label=site:3", true),
        ("label=site=3", true),
        ("label=site", true),
        ("label=site:4", false),
        ("label=rack", false),
        ("label=site:3&label=env:Prod", true),
        ("label=site:3&label=env:prod", false),
        ("q=EDGE", true),
        ("q=zürich", true),
        ("q=prod", true),
        ("q=comp-9", true),
        ("q=edge-host", true),
        ("q=p", true),
        ("q=nowhere", false),
        ("status=active&q=nowhere", false),
        ("label=!rack", true),
        ("label=site!=4", true),
        ("label=site in (3,4)", true),
        ("subtree=agent/edge-17", true),
        ("subtree=poller/p", true),
        ("subtree=poller/q", false),
        ("subtree=agent/p", false),
        ("presence_reason=brake", false),
        ("version=1.2.3", true),
        ("version=1.2", false),
        ("placeholder=false", true),
        ("placeholder=true", false),
        ("registered_after=2027-01-15T08:00:00Z", true),
        ("registered_after=2027-01-15T08:00:01Z", false),
        ("registered_before=2027-01-15T08:00:00Z", false),
        ("registered_before=2027-01-15T09:00:01+01:00", true),
        ("seen_after=2027-01-15T07:59:55Z", true),
        ("seen_after=2027-01-15T07:59:56Z", false),
        ("seen_before=2027-01-15T07:59:55Z", false),
        ("seen_before=2027-01-15T07:59:56Z", true),
        ("status_before=2027-01-15T08:00:00Z", false),
        ("status_before=2027-01-15T08:00:01Z", true),
    ] {
        let wanted = asked(Some(Kind::Agent), query).unwrap();
        assert_eq!(wanted.filter.passes(&entry, seen(Presence::Late).as_ref(), HERE), passes, "{query}");
    }
}

#[test]
fn silence_about_health_is_unchecked() {
    let wanted = asked(None, "health=unchecked").unwrap();
    assert!(wanted.filter.passes(&entry(|_| {}), seen(Presence::Alive).as_ref(), HERE));
}

#[test]
fn what_is_not_known_is_refused_with_what_is() {
    for (query, words) in [
        ("status=asleep", "pending, active, inactive, revoked, deleted"),
        ("status=", "pending, active"),
        ("presence=gone", "never_seen, alive, late, lost, stopped, unknown"),
        ("health=sick", "healthy, degraded, unhealthy, unchecked"),
        ("source=magic", "edge_onboarding, k8s_spiffe"),
        ("parent=../x", "use 1 to 64"),
        ("label=:x", "label=key:value"),
        ("subtree=p", ""),
        ("placeholder=maybe", "true or false"),
        ("seen_after=yesterday", "2026-11-21T02:46:00Z"),
        ("presence_reason=sleep", "collector_blind, brake, via_parent"),
        ("limit=0", "between 1 and 1000"),
        ("limit=100000", "between 1 and 1000"),
    ] {
        let problem = asked(Some(Kind::Agent), query).unwrap_err();
        assert_eq!(problem.code(), ProblemCode::InvalidQuery, "{query}");
        assert!(problem.detail().contains(words), "{query}: {}", problem.detail());
    }
    assert_eq!(asked(None, "cursor=nonsense").unwrap_err().code(), ProblemCode::InvalidCursor);
    let many = vec!["label=a"; 17].join("&");
    assert!(asked(None, &many).unwrap_err().detail().contains("at most 16"));
    let long = format!("q={}", "x".repeat(129));
    assert!(asked(None, &long).unwrap_err().detail().contains("at most 128"));
}

#[test]
fn a_kind_is_asked_for_where_the_path_names_none() {
    assert_eq!(asked(None, "kind=agents").unwrap().kind, Some(Kind::Agent));
    assert!(asked(None, "kind=robot").unwrap_err().detail().contains("poller, agent, checker or instance"));
}

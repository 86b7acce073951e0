//! The released shapes, byte by byte where it matters.

use rollcall_common::{
    id::{BootId, Generation, Seq},
    identity::{Pin, Serial},
    lease::Unknown,
    time::BootTime,
    token::TokenId,
};
use serde_json::json;

use std::sync::LazyLock;

use super::*;
use crate::{
    http::fixture::{NOW, host, pairs, row, said, sight, token},
    registry::roster::{Below, Entry, Slot},
    store::rows::{AuditDraft, CertRow, ServiceRow},
    store::suite::samples,
};

fn light(domain: &TrustDomain) -> Light<'_> {
    // Nobody is being worked on.
    static COVER: LazyLock<Cover> = LazyLock::new(Cover::default);
    let now = Now { boot: BootTime(1_000_000), wall: NOW };
    Light { now, trust_domain: domain, cover: &COVER, recorded: Some(true) }
}

fn identity(row: &ServiceRow) -> IdentityRow {
    let mut serial = [0; 16];
    serial[0] = 1;
    serial[7] = 4;
    let current =
        CertRow { serial: Serial(serial), key: Pin([0; 32]), spki: Vec::new(), not_after: Timestamp(NOW.0 + 60_000) };
    IdentityRow {
        service: row.key.clone(),
        current,
        pending: None,
        enrolled_via: TokenId([0; 10]),
        enrolled_at: NOW,
        rejoins: 0,
        rejoins_since: NOW,
        rejoin_limit: Some(5),
        machine: None,
    }
}

#[test]
fn a_service_that_was_never_heard_has_its_released_form() {
    let domain: TrustDomain = "fleet.example".parse().unwrap();
    let mut row = row("poller/site-3");
    row.declared_spiffe = "spiffe://k8s.example/ns/edge/sa/poller".parse().ok();
    let entry = Entry { slot: Slot::new(0, 0), row: row.into(), identity: None };
    let seen = Seen { entry, sight: None, below: Below { children: 2, checkers: 5 } };
    let shown = serde_json::to_value(ServiceView::of(&seen, None, light(&domain))).unwrap();
    assert_eq!(
        shown,
        json!({
            "kind": "poller",
            "id": "site-3",
            "parent": null,
            "poller": null,
            "checker_kind": null,
            "component_id": null,
            "status": "pending",
            "status_since": "2027-01-15T08:00:00.000Z",
            "presence": "never_seen",
            "presence_origin": null,
            "presence_reason": null,
            "recorded": true,
            "health": { "health": "unchecked", "reason": "", "as_of": null },
            "progress": "unwatched",
            "progress_reason": "",
            "progress_as_of": null,
            "settings": "none",
            "source": "config",
            "first_registered": "2027-01-15T08:00:00.000Z",
            "first_seen": null,
            "last_seen": null,
            "maintenance": null,
            "placeholder": false,
            "implicit_children": false,
            "ephemeral_after_secs": null,
            "archived": false,
            "spiffe_identity": "spiffe://k8s.example/ns/edge/sa/poller",
            "created_by": "credential:x",
            "labels": {},
            "metadata": {},
            "interval_ms": null,
            "ttl_ms": null,
            "connected_from": null,
            "transport": null,
            "children": 2,
            "agent_count": 2,
            "checker_count": 5,
            "seq": 3,
        })
    );
}

#[test]
fn a_service_with_everything_has_its_released_form() {
    let domain: TrustDomain = "fleet.example".parse().unwrap();
    let mut row = row("checker/snmp-1");
    row.status = Status::Active;
    row.poller = Some("p".parse().unwrap());
    row.checker_kind = Some("snmp".parse().unwrap());
    row.component_id = Some("comp-9".into());
    row.health = said(Health::Degraded, "disk at 91 %");
    row.labels = pairs(&[("site", "3")]);
    row.metadata = pairs(&[("rack", "b7")]);
    row.first_seen = Some(Timestamp(NOW.0 - 60_000));
    row.last_seen = Some(Timestamp(NOW.0 - 30_000));
    row.facts = Some(host("edge-17"));
    row.ephemeral_after = Some(900);
    row.progress = Some((samples::progress(Progress::Stalled, "42 rows for 5 min"), NOW));
    row.settings = Some(samples::settings(3));
    row.reported = Some(samples::reported(2));
    row.announced = Some(samples::announced("b7"));
    // A bound identity is shown, whatever was declared.
    row.declared_spiffe = "spiffe://k8s.example/ns/edge/sa/poller".parse().ok();
    let identity = IdentityRow { machine: Some(samples::machine(1)), ..identity(&row) };
    let entry = Entry { slot: Slot::new(0, 0), row: row.into(), identity: Some(identity.into()) };
    let lease = sight(Presence::Unknown, Some(Unknown::CollectorBlind), BootTime(1_000_000));
    let seen = Seen { entry, sight: Some(lease), below: Below::default() };
    let link = Link {
        instance: rollcall_common::id::InstanceId([1; 16]),
        session: rollcall_common::id::SessionNo(1),
        serial: Serial([1; 16]),
        ends: BootTime(0),
        peer: "192.0.2.7:4711".parse().unwrap(),
        transport: rollcall_common::wire::Transport::Tcp,
        outbox: std::sync::Arc::default(),
    };
    let mut shown = serde_json::to_value(ServiceDetail::of(&seen, Some(&link), None, light(&domain))).unwrap();
    let mut part = |name| shown.as_object_mut().and_then(|all| all.remove(name)).unwrap();
    let (identity, host) = (part("identity"), part("host"));
    assert_eq!((part("machine"), part("machine_before")), (format!("{:032x}", 1).into(), format!("{:032x}", 2).into()));
    assert_eq!(part("machine_since"), "2026-11-21T12:00:00.000Z");
    assert_eq!(part("announced_labels"), json!({ "site": "Genève" }));
    assert!(part("parent_report").is_null());
    assert_eq!(
        identity,
        json!({
            "serial": "01000000000000040000000000000000",
            "generation": Generation(4),
            "not_after": "2027-01-15T08:01:00.000Z",
            "renewing": false,
            "enrolled_via": "aaaaaaaaaaaaaaaa",
            "enrolled_at": "2027-01-15T08:00:00.000Z",
            "rejoins": 0,
            "rejoin_limit": 5,
        })
    );
    assert_eq!(
        host,
        json!({
            "hostname": "edge-17", "os": "", "kernel": "", "arch": "",
            "cpus": 4, "memory_mib": 2048, "uptime_secs": 0, "agent_version": "",
        })
    );
    assert_eq!(
        shown,
        json!({
            "kind": "checker",
            "id": "snmp-1",
            "parent": "a",
            "poller": "p",
            "checker_kind": "snmp",
            "component_id": "comp-9",
            "status": "active",
            "status_since": "2027-01-15T08:00:00.000Z",
            "presence": "unknown",
            "presence_reason": "collector_blind",
            "presence_origin": "own",
            "recorded": true,
            "health": { "health": "degraded", "reason": "disk at 91 %", "as_of": "2027-01-15T08:00:00.000Z" },
            "progress": "stalled",
            "progress_reason": "42 rows for 5 min",
            "progress_as_of": "2027-01-15T08:00:00.000Z",
            "settings": "refused",
            "source": "config",
            "first_registered": "2027-01-15T08:00:00.000Z",
            "first_seen": "2027-01-15T07:59:00.000Z",
            // The lease is newer than the row.
            "last_seen": "2027-01-15T07:59:55.000Z",
            "maintenance": null,
            "placeholder": false,
            "implicit_children": false,
            "ephemeral_after_secs": 900,
            "archived": false,
            "spiffe_identity": "spiffe://fleet.example/checker/snmp-1",
            "created_by": "credential:x",
            "labels": { "site": "3" },
            "metadata": { "rack": "b7" },
            "interval_ms": 10_000,
            "ttl_ms": 30_000,
            "connected_from": "192.0.2.7:4711",
            "transport": "tcp",
            "children": 0,
            "agent_count": null,
            "checker_count": null,
            "seq": 3,
        })
    );
}

#[test]
fn the_newer_of_two_sightings_is_shown() {
    let domain: TrustDomain = "fleet.example".parse().unwrap();
    let mut row = row("poller/p");
    row.last_seen = Some(NOW);
    let entry = Entry { slot: Slot::new(0, 0), row: row.into(), identity: None };
    let seen = Seen { entry, sight: Some(sight(Presence::Alive, None, BootTime(1_000_000))), below: Below::default() };
    assert_eq!(ServiceView::of(&seen, None, light(&domain)).last_seen, Some(Time(NOW)));
}

#[test]
fn a_token_has_its_released_form_without_any_secret() {
    let shown = serde_json::to_value(TokenView::of(&token(0), NOW)).unwrap();
    assert_eq!(
        shown,
        json!({
            "id": "aaaaaaaaaaaaaaaa",
            "state": "usable",
            "kind": "agent",
            "parent": "p",
            "id_rule": { "rule": "prefix", "prefix": "edge-" },
            "checker_kind": null,
            "max_uses": 3,
            "uses": 1,
            "not_before": "2027-01-15T08:00:00.000Z",
            "expires_at": "2027-01-15T09:00:00.000Z",
            "cidr_allow": ["192.0.2.0/24"],
            "labels": { "site": "3" },
            "approval": "auto", "ephemeral_after_secs": null, "implicit_children": false, "parent_rule": null,
            "rejoin_limit": 5,
            "note": "for the north",
            "created_by": "credential:x",
            "created_at": "2027-01-15T08:00:00.000Z",
            "revoked_at": null,
            "last_used_at": null,
            "last_used_from": null,
            "seq": 9,
        })
    );
    assert_eq!(TokenView::of(&token(0), Timestamp(NOW.0 + 3_600_000)).state, "expired");
}

#[test]
fn audit_events_and_intervals_have_their_released_form() {
    let draft = AuditDraft {
        at: NOW,
        action: "service.revoked".into(),
        actor: "credential:x".into(),
        object: "agent/a".into(),
        request_id: Some("r-1".into()),
        details: BTreeMap::from([("reason".to_owned(), json!("gone"))]),
    };
    let shown = serde_json::to_value(AuditView::of(AuditEvent { seq: Seq(5), draft })).unwrap();
    assert_eq!(
        shown,
        json!({
            "seq": 5, "at": "2027-01-15T08:00:00.000Z", "action": "service.revoked", "actor": "credential:x",
            "object": "agent/a", "request_id": "r-1", "details": { "reason": "gone" },
        })
    );
    let interval = IntervalRow {
        service: "agent/a".parse().unwrap(),
        from: Timestamp(NOW.0 - 1_000),
        to: None,
        presence: Presence::Lost,
        cause: "ttl".into(),
        evidence: json!({ "beat_no": 7 }),
        decided_at: NOW,
        recorded_at: Some(NOW),
        superseded_at: None,
        boot_id: BootId([1; 16]),
        from_boot: BootTime(1),
    };
    assert_eq!(
        serde_json::to_value(IntervalView::of(interval)).unwrap(),
        json!({
            "from": "2027-01-15T07:59:59.000Z", "to": null, "presence": "lost", "cause": "ttl",
            "evidence": { "beat_no": 7 }, "decided_at": "2027-01-15T08:00:00.000Z",
            "recorded_at": "2027-01-15T08:00:00.000Z", "superseded_at": null,
            "boot_id": "01010101010101010101010101010101",
        })
    );
}

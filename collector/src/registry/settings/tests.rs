use std::collections::BTreeMap;

use proptest::prelude::*;
use rollcall_common::{
    id::{BeatNo, SessionNo},
    time::{BootTime, Now},
    wire::settings::SettingsRefused,
};

use super::*;
use crate::{
    http::fixture::{NOW, PACE, row},
    registry::{
        judge::{Judge, Sense},
        leases::{Leases, Phase},
        roster::Roster,
    },
    store::rows::Loaded,
};

const KEY: &str = "agent/a";

fn tuning(probe: &str) -> Tuning {
    Tuning {
        child: None,
        probe: probe.parse().unwrap(),
        run: Some(false),
        interval_ms: None,
        timeout_ms: None,
        rise: None,
        fall: None,
    }
}

fn probe(name: &str, allowed: bool) -> ProbeState {
    ProbeState {
        child: None,
        probe: name.parse().unwrap(),
        sort: Text::fit("tcp"),
        allowed,
        runs: true,
        interval_ms: 10_000,
        timeout_ms: 3_000,
        rise: 2,
        fall: 3,
    }
}

fn state(revision: u64, refused: Option<u64>, probes: Vec<ProbeState>) -> Heard {
    let refused = refused.map(|revision| SettingsRefused { revision, why: Text::fit("no") });
    Heard::State(Box::new(SettingsState { revision, refused, probes, more: 0 }))
}

fn wish(interval_ms: u32, probes: &[&str]) -> Wish {
    Wish { interval_ms: Some(interval_ms), ttl_ms: None, probes: probes.iter().map(|name| tuning(name)).collect() }
}

fn ask(row: &ServiceRow, wish: Wish) -> Result<(Change, (u64, bool)), Refusal> {
    ask_within(row, &[], "", wish)
}

/// The same of a caller with a scope, beside other services; an empty one reaches everything.
fn ask_within(
    row: &ServiceRow,
    others: &[ServiceRow],
    scope: &str,
    wish: Wish,
) -> Result<(Change, (u64, bool)), Refusal> {
    let services = std::iter::once(row).chain(others).cloned().collect();
    let loaded = Loaded { services, ..Loaded::default() };
    let roster = Roster::from_loaded(&loaded);
    let scope = if scope.is_empty() { Scope::everything() } else { scope.parse().unwrap() };
    let by = By { actor: "credential:x".into(), request_id: None };
    let request = ChangeSettings { key: row.key.clone(), wish, everybody: PACE, scope, by };
    request.plan(World { roster: &roster, now: Now { wall: NOW, boot: BootTime(1) } })
}

fn with(row: &ServiceRow, wish: Wish) -> ServiceRow {
    let (change, _) = ask(row, wish).unwrap();
    let Some(Write::PutSettings { row: wanted, .. }) = change.writes.first() else { panic!("{change:?}") };
    ServiceRow { settings: Some(Arc::clone(wanted)), ..row.clone() }
}

fn hears(row: &ServiceRow, heard: &Heard) -> (ServiceRow, Vec<String>) {
    let Some((next, audit)) = reported(row, heard, NOW) else { return (row.clone(), Vec::new()) };
    let told = audit.into_iter().map(|event| event.action).collect();
    (ServiceRow { reported: Some(Arc::new(next)), ..row.clone() }, told)
}

fn echoes(row: &ServiceRow, revision: u64) -> ServiceRow {
    ServiceRow { reported: Some(Arc::new(paced(row, None, revision).unwrap())), ..row.clone() }
}

#[test]
fn settings_go_from_pending_to_what_the_sidecar_says() {
    let bare = row(KEY);
    assert_eq!(Standing::of(&bare), Standing::None);
    let wanted = with(&bare, wish(60_000, &["port"]));
    assert_eq!((Standing::of(&wanted), Standing::since(&wanted)), (Standing::Pending, Some(NOW)));
    let (refused, told) = hears(&wanted, &state(0, Some(1), vec![]));
    assert_eq!((Standing::of(&refused), told), (Standing::Refused, vec!["settings.refused".to_owned()]));
    assert_eq!(why(&refused).unwrap().as_str(), "no");
    let (applied, told) = hears(&refused, &state(1, None, vec![probe("port", true)]));
    assert_eq!((Standing::of(&applied), told), (Standing::Applied, vec!["settings.applied".to_owned()]));
    // A change is another number; taken back, nothing is wanted until the sidecar has heard of it.
    let again = with(&applied, wish(60_000, &[]));
    assert_eq!((Standing::of(&again), again.settings.as_ref().unwrap().revision), (Standing::Pending, 2));
    let reset = with(&again, Wish::default());
    assert_eq!((Standing::of(&reset), reset.settings.as_ref().unwrap().revision), (Standing::Pending, 3));
    let (over, _) = hears(&reset, &state(3, None, vec![]));
    assert_eq!((Standing::of(&over), Standing::since(&over)), (Standing::None, None));
}

#[test]
fn an_old_sidecar_is_told_apart_and_forgotten_with_what_was_wanted() {
    let wanted = with(&row(KEY), wish(60_000, &[]));
    let (old, told) = hears(&wanted, &Heard::Unsupported);
    assert_eq!((Standing::of(&old), told), (Standing::Unsupported, vec![]));
    assert!(reported(&old, &Heard::Unsupported, NOW).is_none(), "said once");
    assert_eq!(Standing::of(&with(&old, Wish::default())), Standing::None);
    let (updated, _) = hears(&old, &state(1, None, vec![]));
    assert_eq!(Standing::of(&updated), Standing::Applied);
}

/// Whoever changes its mind with every word fills no audit trail.
#[test]
fn each_outcome_of_a_revision_is_told_once() {
    let mut row = with(&row(KEY), wish(60_000, &[]));
    let mut told = Vec::new();
    for n in 0..1_000 {
        let heard = if n % 2 == 0 { state(1, None, vec![]) } else { state(n, Some(1), vec![probe("p", n % 3 == 0)]) };
        let (next, events) = hears(&row, &heard);
        row = next;
        told.extend(events);
    }
    assert_eq!(told, ["settings.applied", "settings.refused"]);
}

#[test]
fn the_same_wish_again_is_no_change() {
    let bare = row(KEY);
    assert!(matches!(ask(&bare, Wish::default()), Ok((change, (0, false))) if change.writes.is_empty()));
    let wanted = with(&bare, wish(60_000, &["port"]));
    assert!(matches!(ask(&wanted, wish(60_000, &["port"])), Ok((change, (1, false))) if change.audit.is_empty()));
    let (change, answer) = ask(&wanted, wish(60_000, &[])).unwrap();
    let event = change.audit.first().unwrap();
    assert_eq!(
        (event.action.as_str(), event.actor.as_str(), answer),
        ("service.settings_changed", "credential:x", (2, true))
    );
    assert_eq!(event.details["before"]["probes"], json!({"port": {"run": false}}));
    assert_eq!(event.details["after"], json!({"interval_ms": 60_000, "ttl_ms": null, "probes": {}}));
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let bare = row(KEY);
    let problem = |row: &ServiceRow, wish: Wish| match ask(row, wish) {
        Err(Refusal::Settings(problem)) => problem.to_string(),
        other => panic!("{other:?}"),
    };
    assert!(problem(&bare, wish(10, &[])).starts_with("interval: "));
    assert!(problem(&bare, wish(600_001, &[])).starts_with("interval: "));
    let short = Wish { ttl_ms: Some(20_000), ..wish(10_000, &[]) };
    assert!(problem(&bare, short).starts_with("ttl: "));
    let long = Wish { ttl_ms: Some(20_000), ..Wish::default() };
    assert!(problem(&bare, long).starts_with("ttl: "), "three of everybody's intervals");
    let tuned = |change: fn(&mut Tuning)| {
        let mut one = tuning("port");
        change(&mut one);
        Wish { probes: vec![one], ..Wish::default() }
    };
    assert!(problem(&bare, tuned(|one| one.run = None)).starts_with("probes[0].probe: "));
    assert!(problem(&bare, tuned(|one| one.interval_ms = Some(999))).starts_with("probes[0].interval: "));
    assert!(problem(&bare, tuned(|one| one.timeout_ms = Some(60_001))).starts_with("probes[0].timeout: "));
    assert!(problem(&bare, tuned(|one| one.rise = Some(0))).starts_with("probes[0].rise: "));
    assert!(problem(&bare, tuned(|one| one.fall = Some(101))).starts_with("probes[0].fall: "));
    assert!(problem(&bare, tuned(|one| one.child = Some(KEY.parse().unwrap()))).starts_with("probes[0].child: "));
    let narrow = |one: &mut Tuning| (one.interval_ms, one.timeout_ms) = (Some(1_000), Some(1_001));
    assert!(problem(&bare, tuned(narrow)).starts_with("probes[0].timeout: "));
    assert!(problem(&bare, wish(60_000, &["a", "b", "a"])).starts_with("probes[2].probe: a is named twice"));
    let many: Vec<String> = (0..33).map(|n| format!("p{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert!(problem(&bare, wish(60_000, &many)).starts_with("probes: at most 32"));
    // Who has no sidecar.
    assert!(problem(&ServiceRow { placeholder: true, ..bare.clone() }, wish(60_000, &[])).contains("no sidecar"));
    assert!(problem(&ServiceRow { first_seen: Some(NOW), ..bare.clone() }, wish(60_000, &[])).contains("parent"));
    let deleted = ServiceRow { status: Status::Deleted, ..bare };
    assert!(matches!(ask(&deleted, wish(60_000, &[])), Err(Refusal::Deleted(_))));
}

#[test]
fn a_probe_that_the_host_does_not_have_or_allow_is_refused_where_that_is_known() {
    let bare = row(KEY);
    assert!(ask(&bare, wish(60_000, &["nobody"])).is_ok(), "nothing was told yet");
    let (told, _) = hears(&bare, &state(0, None, vec![probe("port", true), probe("db", false)]));
    assert!(ask(&told, wish(60_000, &["port"])).is_ok());
    assert!(matches!(
        ask(&told, wish(60_000, &["port", "db"])),
        Err(Refusal::Settings(SettingsProblem::NotAllowed { probe, .. })) if probe == "db"
    ));
    // What is refused names what mends it, as the host's files write it.
    let child = Some("checker/d".parse().unwrap());
    let of_child = ProbeState { child: child.clone(), ..probe("disk", false) };
    let (closed, _) = hears(&bare, &state(0, None, vec![of_child]));
    let problem = |tuning| ask(&closed, Wish { probes: vec![tuning], ..Wish::default() }).unwrap_err().to_string();
    let why = problem(Tuning { child, ..tuning("disk") });
    assert!(why.contains("add \"child/checker/d:disk\" to `remote.probes`"), "{why}");
    assert!(problem(tuning("gone")).contains("it has child/checker/d:disk; take it out of `probes`"));
    assert!(matches!(
        ask(&told, wish(60_000, &["web"])),
        Err(Refusal::Settings(SettingsProblem::UnknownProbe { known, .. })) if known == ["port", "db"]
    ));
    let Heard::State(mut cut) = state(0, None, vec![probe("port", true)]) else { unreachable!() };
    cut.more = 1;
    let (cut, _) = hears(&bare, &Heard::State(cut));
    assert!(ask(&cut, wish(60_000, &["web"])).is_ok(), "it may be the one that was left out");
}

/// A sidecar within reach may have children beyond it: these are not there for who does not reach them.
#[test]
fn a_scope_tunes_no_child_beyond_it_and_takes_nothing_of_it_back() {
    let labelled = |key: &str, site: &str| {
        let labels = BTreeMap::from([("site".to_owned(), site.to_owned())]);
        ServiceRow { labels: labels.try_into().unwrap(), ..row(key) }
    };
    let of = |child: &str| Tuning { child: Some(child.parse().unwrap()), ..tuning("port") };
    let wish = |probes: &[Tuning]| Wish { probes: probes.to_vec(), ..Wish::default() };
    let others = [labelled("checker/near", "3"), labelled("checker/far", "4")];
    let shown = |child: &str| ProbeState { child: Some(child.parse().unwrap()), ..probe("port", true) };
    let own = labelled(KEY, "3");
    let (own, _) = hears(&own, &state(0, None, vec![shown("checker/near"), shown("checker/far")]));
    let within = |row: &ServiceRow, wish: Wish| ask_within(row, &others, "site=3", wish);
    assert!(within(&own, wish(&[of("checker/near")])).is_ok());
    for child in ["checker/far", "checker/nobody"] {
        assert!(matches!(
            within(&own, wish(&[of(child)])),
            Err(Refusal::Settings(SettingsProblem::UnknownProbe { known, .. })) if known == ["child/checker/near:port"]
        ));
    }
    assert!(matches!(ask_within(&own, &others, "site=4", wish(&[of("checker/far")])), Err(Refusal::UnknownService(_))));
    let wanted = |change: &Change| match change.writes.first() {
        Some(Write::PutSettings { row, .. }) => Arc::clone(row),
        other => panic!("{other:?}"),
    };
    let (change, _) = ask_within(&own, &others, "", wish(&[of("checker/near"), of("checker/far")])).unwrap();
    let both = ServiceRow { settings: Some(wanted(&change)), ..own };
    // What he sees is what he wants: nothing changes.
    assert!(matches!(within(&both, wish(&[of("checker/near")])), Ok((_, (1, false)))));
    let (change, _) = within(&both, Wish::default()).unwrap();
    assert_eq!(wanted(&change).probes, [of("checker/far")]);
}

#[test]
fn the_pace_is_the_services_own_and_so_is_its_number() {
    let bare = row(KEY);
    assert_eq!(pace_of(&bare, PACE), PACE);
    let slow = with(&bare, wish(60_000, &[]));
    let pace = pace_of(&slow, PACE);
    assert_eq!((pace.interval_ms, pace.ttl_ms), (60_000, 180_000));
    assert_ne!(pace.no, PACE.no);
    assert_eq!(pace, pace_of(&slow, Pace { no: PaceNo(7), ..PACE }), "whatever the number for everybody");
    let longest_ttl = Wish { ttl_ms: Some(3_600_000), ..wish(60_000, &[]) };
    assert_eq!(pace_of(&with(&bare, longest_ttl), PACE).ttl_ms, 3_600_000);
    // Everybody's may change: what was set stays a pace that works.
    let ttl = with(&bare, Wish { ttl_ms: Some(40_000), ..Wish::default() });
    let pace = pace_of(&ttl, Pace { no: PaceNo(2), interval_ms: 20_000, ttl_ms: 60_000 });
    assert_eq!((pace.interval_ms, pace.ttl_ms), (20_000, 60_000));
}

/// What was granted before counts until the sidecar has said that it knows better.
#[test]
fn a_pace_that_was_shortened_is_not_taken_for_kept() {
    let slow = with(&row(KEY), wish(60_000, &[]));
    let quick = with(&slow, Wish::default());
    let before = pace_before(&quick, PACE, None).unwrap();
    assert_eq!((pace_of(&quick, PACE), before.interval_ms, before.ttl_ms), (PACE, 60_000, 180_000));
    // Another change before it was heard of does not make it forget.
    let quicker = with(&quick, wish(5_000, &[]));
    assert_eq!(pace_before(&quicker, PACE, None).unwrap().ttl_ms, 180_000);
    // It travels in acknowledgements: who has the settings in force may sleep at the old one still.
    let (heard, _) = hears(&quicker, &state(3, None, vec![]));
    assert_eq!(pace_before(&heard, PACE, None).unwrap().ttl_ms, 180_000);
    assert_eq!(paced(&heard, None, 2), None, "an echo of an older one");
    let heard = echoes(&heard, 3);
    assert_eq!((pace_before(&heard, PACE, None), paced(&heard, None, 3)), (None, None));
    // What it says afterwards takes nothing of that back.
    let (heard, _) = hears(&heard, &state(3, None, vec![probe("port", true)]));
    assert_eq!(pace_before(&heard, PACE, None), None);
    let slower = with(&heard, wish(20_000, &[]));
    assert_eq!(pace_before(&slower, PACE, None).unwrap().interval_ms, 5_000);
    let previous = Pace { no: PaceNo(0), interval_ms: 30_000, ttl_ms: 120_000 };
    assert_eq!(pace_before(&row(KEY), PACE, Some(previous)), Some(previous));
    assert_eq!(pace_before(&heard, PACE, Some(previous)).unwrap().ttl_ms, 20_000, "in its proportion");
}

/// Whoever knows no settings, or has refused them, echoes a pace all the same, and is not waited for at each restart.
#[test]
fn an_echo_counts_whatever_becomes_of_the_settings() {
    let slow = with(&row(KEY), wish(60_000, &[]));
    let quick = with(&slow, wish(5_000, &[]));
    for heard in [Some(Heard::Unsupported), Some(state(0, Some(2), vec![])), None] {
        let said = heard.map_or_else(|| quick.clone(), |heard| hears(&quick, &heard).0);
        let standing = Standing::of(&said);
        assert_eq!(pace_before(&said, PACE, None).unwrap().ttl_ms, 180_000, "{standing}");
        let echoed = echoes(&said, 2);
        assert_eq!((pace_before(&echoed, PACE, None), Standing::of(&echoed)), (None, standing));
        assert!(ask(&echoed, wish(5_000, &["any"])).is_ok() || standing == Standing::Refused);
    }
}

/// An interval of a minute under a time to live of half a minute for everybody: after a restart it is waited for.
#[test]
fn a_restart_waits_for_a_slow_service_as_long_as_it_may_be_silent() {
    let active = |row: ServiceRow| ServiceRow { status: Status::Active, first_seen: Some(NOW), ..row };
    let slow = active(with(&row("instance/slow"), wish(60_000, &[])));
    let was_slow = active(with(&with(&row("instance/was-slow"), wish(60_000, &[])), Wish::default()));
    let rows = vec![slow, was_slow, active(row("instance/usual"))];
    let loaded = Loaded { services: rows, ..Loaded::default() };
    let (roster, leases) = (Roster::from_loaded(&loaded), Leases::default());
    let now = Now { wall: NOW, boot: BootTime(1_000_000) };
    crate::registry::judge::arm(&roster, &leases, &loaded, now, (PACE, None));
    let expired = |after_secs: u64| {
        let at = BootTime(1_000_000 + after_secs * 1_000);
        let slots = leases.expire(at);
        slots.into_iter().map(|slot| roster.at(slot).unwrap().row.key.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(expired(29), Vec::<String>::new());
    assert_eq!(expired(36), ["instance/usual"]);
    assert_eq!(expired(179), Vec::<String>::new());
    assert_eq!(expired(215).len(), 2);
}

/// A service with a short time to live has the credit of its own for our blindness, one with a long one too.
#[test]
fn blind_credit_follows_the_pace_of_each_service() {
    let leases = Leases::default();
    let paces = [(1_000, 3_000), (60_000, 180_000)];
    for (n, (interval_ms, ttl_ms)) in (0..).zip(paces) {
        let slot = Slot::new(n, 0);
        leases.reserve(slot);
        leases.rearm(slot, Pace { no: PaceNo(0), interval_ms, ttl_ms }, BootTime(1_000_000 + u64::from(ttl_ms)));
    }
    let deadline = |n: u32| leases.sight(Slot::new(n, 0), BootTime(1_020_000)).unwrap().deadline.0;
    let blind = std::time::Duration::from_secs(20);
    leases.credit(BootTime(1_020_000), blind, false);
    // 20 s are more than three times 3 s: it is armed anew, with the chance of its own pace.
    assert!((1_031_000..1_032_000).contains(&deadline(0)), "{}", deadline(0));
    assert_eq!(deadline(1), 1_200_000);
}

/// Stalls of a minute, again and again, while everybody keeps half of one: who is slower than everybody has the credit
/// of its own pace, three times to live in an hour, and no more.
#[test]
fn whoever_is_slower_than_everybody_has_no_endless_credit() {
    let (leases, slot) = (Leases::default(), Slot::new(0, 0));
    leases.reserve(slot);
    let slow = Pace { no: PaceNo(0), interval_ms: 20_000, ttl_ms: 60_000 };
    leases.set_phase(slot, Phase::Live);
    let now = |ms: u64| Now { boot: BootTime(ms), wall: NOW };
    let mut judge = Judge::new(now(0));
    let mut credited = |at: u64| {
        leases.touch(slot, SessionNo(1), BeatNo(at), slow, BootTime(at - 1));
        let (Sense::Credit(gap) | Sense::Unobservable(gap)) = judge.tick(now(at), PACE) else { panic!("no gap") };
        leases.credit(BootTime(at), gap.length, gap.renews);
        // Who is armed anew has not been heard.
        leases.sight(slot, BootTime(at)).unwrap().last_beat.is_some()
    };
    let stalls: Vec<bool> = (1..=60).map(|n| credited(n * 60_000)).collect();
    assert_eq!(stalls.iter().filter(|one| **one).count(), 3, "{stalls:?}");
    assert!(credited(61 * 60_000), "a new hour has new credit");
}

proptest! {
    /// Whatever is wanted and whatever everybody keeps, what is granted is a pace that works.
    #[test]
    fn every_pace_that_is_granted_works(
        interval in prop::option::of(100u32..600_000), ttl in prop::option::of(300u32..3_600_000),
        everybody in 100u32..600_000, factor in 3u32..7,
    ) {
        let everybody = Pace { no: PaceNo(1), interval_ms: everybody, ttl_ms: (everybody * factor).min(Pace::MAX_TTL_MS) };
        let pace = pace_by(interval, ttl, everybody);
        prop_assert!(Pace::new(pace.no, pace.interval_ms, pace.ttl_ms).is_ok(), "{:?}", pace);
        prop_assert_eq!(pace.no == everybody.no, interval.is_none() && ttl.is_none());
    }
}

//! What a collector gets, and what it does not get however it asks.

use std::collections::BTreeMap;

use proptest::prelude::*;
use rollcall_common::{
    health::{Health, MAX_TEXT},
    service::Pairs,
    wire::{children::ChildAbout, codec::encode, message::Up},
};

use super::*;
use crate::probe::{gauge::Rules, plan::Target};

fn probe(name: &str, check: Check) -> Probe {
    Probe {
        name: name.parse().unwrap(),
        check,
        interval: Duration::from_secs(60),
        timeout: Duration::from_secs(3),
        rules: Rules { rise: 2, fall: 3, grace: Duration::ZERO },
        worst: Health::Unhealthy,
        standby: false,
    }
}

fn tcp(name: &str) -> Probe {
    probe(name, Check::Tcp(Target::read("localhost:1").unwrap()))
}

fn exec(name: &str) -> Probe {
    probe(name, Check::Exec(vec!["/bin/true".into()]))
}

fn child(probes: Vec<Probe>) -> Child {
    let about = ChildAbout { checker_kind: None, labels: Pairs::default(), metadata: Pairs::default() };
    Child { key: "checker/c".parse().unwrap(), parent: None, about, probes, assume_alive: false }
}

struct Files {
    probes: Vec<Probe>,
    children: Vec<Child>,
    remote: Remote,
}

impl Files {
    /// Four probes of our own, of which one is nobody's business, and a child's.
    fn new(allowed: &[&str]) -> Self {
        let standby = Probe { standby: true, ..exec("deep") };
        let remote = Remote { probes: allowed.iter().map(|text| text.parse().unwrap()).collect(), ..Remote::default() };
        Self {
            probes: vec![tcp("port"), exec("disk"), standby, tcp("secret")],
            children: vec![child(vec![tcp("port")])],
            remote,
        }
    }

    fn usual() -> Self {
        Self::new(&["port", "disk", "deep", "child/checker/c:port"])
    }

    fn host(&self) -> Host<'_> {
        Host { probes: &self.probes, children: &self.children, remote: &self.remote }
    }
}

fn tune(probe: &str) -> Tuning {
    let probe = probe.parse().unwrap();
    Tuning { child: None, probe, run: None, interval_ms: None, timeout_ms: None, rise: None, fall: None }
}

fn settings(probes: Vec<Tuning>) -> Settings {
    Settings { revision: 7, labels: Pairs::default(), probes }
}

#[test]
fn what_is_allowed_is_done_and_the_rest_is_as_the_files_have_it() {
    let files = Files::usual();
    let wanted = settings(vec![
        Tuning { interval_ms: Some(5_000), timeout_ms: Some(200), rise: Some(1), fall: Some(9), ..tune("port") },
        Tuning { run: Some(false), ..tune("disk") },
        Tuning { run: Some(true), ..tune("deep") },
        Tuning { child: "checker/c".parse().ok(), interval_ms: Some(10_000), ..tune("port") },
    ]);
    assert_eq!(judge(files.host(), &wanted), Ok(()));
    let all = effective(files.host(), Some(&wanted));
    assert!(all.dropped.is_empty());
    let names: Vec<_> = all.probes.iter().map(|probe| probe.name.as_str()).collect();
    assert_eq!(names, ["port", "deep", "secret"]);
    let port = &all.probes[0];
    assert_eq!((port.interval, port.timeout), (Duration::from_secs(5), Duration::from_millis(200)));
    assert_eq!((port.rules.rise, port.rules.fall, &port.check), (1, 9, &files.probes[0].check));
    assert_eq!(all.probes[2], files.probes[3]);
    assert_eq!(all.children[0].probes[0].interval, Duration::from_secs(10));
    let tuned: Vec<_> = all.rows.iter().map(|row| (row.allowed, row.runs, row.tuned)).collect();
    assert_eq!(
        tuned,
        [(true, true, true), (true, false, true), (true, true, true), (false, true, false), (true, true, true)]
    );
    let alone = effective(files.host(), None);
    assert_eq!(alone.probes, [tcp("port"), exec("disk"), tcp("secret")], "standby rests until somebody asks");
    let state = state(7, None, &all.rows);
    let order: Vec<_> = state.probes.iter().map(|probe| probe.probe.as_str()).collect();
    assert_eq!((order, state.more), (vec!["port", "disk", "deep", "port", "secret"], 0));
}

#[test]
fn what_is_refused_says_what_would_allow_it() {
    let mut files = Files::new(&["port", "disk", "deep", "slow", "child/checker/c:port"]);
    files.probes.push(Probe { timeout: Duration::from_secs(6), ..tcp("slow") });
    let of_child = |probe| Tuning { child: "checker/c".parse().ok(), ..tune(probe) };
    let cases = [
        (
            Tuning { run: Some(false), ..tune("secret") },
            "secret: may not be tuned; the host would allow it with \"secret\" in remote.probes",
        ),
        (tune("nobody"), "nobody: the host's files have no such probe"),
        (of_child("disk"), "child/checker/c:disk: the host's files have no such probe"),
        (Tuning { child: "agent/x".parse().ok(), ..tune("port") }, "child/agent/x:port: the host's files have no such"),
        (
            Tuning { interval_ms: Some(4_999), ..tune("port") },
            "port: interval 4.999s is below the host's floor of 5s (remote.min_interval)",
        ),
        (Tuning { interval_ms: Some(0), ..tune("port") }, "port: interval 0ns is below"),
        (
            Tuning { interval_ms: Some(29_999), ..tune("disk") },
            "disk: interval 29.999s is below the host's floor of 30s (remote.min_exec_interval)",
        ),
        (Tuning { interval_ms: Some(u32::MAX), ..tune("port") }, "is over 3600s"),
        (Tuning { timeout_ms: Some(0), ..tune("port") }, "port: timeout 0ns is not between 50ms and 60s"),
        (Tuning { timeout_ms: Some(60_001), ..tune("port") }, "port: timeout 60.001s is not between"),
        (
            Tuning { interval_ms: Some(5_000), timeout_ms: Some(5_001), ..tune("slow") },
            "a look of 5.001s does not fit into an interval of 5s",
        ),
        (
            Tuning { timeout_ms: Some(3_001), ..tune("disk") },
            "disk: timeout 3.001s is over the host's 3s (remote.max_timeout)",
        ),
        (
            Tuning { run: Some(false), ..of_child("port") },
            "child/checker/c: the last probe that runs stays on, or it would be taken for lost",
        ),
        (Tuning { rise: Some(0), ..tune("port") }, "port: rise 0 is not between 1 and 100"),
        (Tuning { fall: Some(101), ..tune("port") }, "port: fall 101 is not between 1 and 100"),
    ];
    for (tuning, words) in cases {
        // However well the others are: nothing of it.
        let wanted = settings(vec![Tuning { run: Some(true), ..tune("deep") }, tuning]);
        let why = judge(files.host(), &wanted).unwrap_err();
        assert!(why.contains(words), "{why}");
    }
    let twice = settings(vec![tune("port"), of_child("port"), tune("port")]);
    assert_eq!(judge(files.host(), &twice).unwrap_err(), "port is tuned twice");
    let many = settings(vec![tune("port"); MAX_TUNED + 1]);
    assert_eq!(judge(files.host(), &many).unwrap_err(), "33 probes are tuned; at most 32");
    let none = Settings { revision: 0, ..settings(vec![tune("port")]) };
    assert!(judge(files.host(), &none).is_err());
    assert_eq!(judge(files.host(), &Settings { revision: 0, ..settings(Vec::new()) }), Ok(()));
    // A host that looks more often by itself may be asked to go on so.
    let mut files = Files::usual();
    files.probes[0].interval = Duration::from_secs(2);
    files.probes[0].timeout = Duration::from_secs(1);
    let fast = |ms| settings(vec![Tuning { interval_ms: Some(ms), ..tune("port") }]);
    assert_eq!(judge(files.host(), &fast(2_000)), Ok(()));
    assert!(judge(files.host(), &fast(1_999)).is_err());
}

#[test]
fn a_look_takes_no_longer_than_the_host_lets_it() {
    let patient = |ms| settings(vec![Tuning { timeout_ms: Some(ms), ..tune("disk") }]);
    let mut files = Files::usual();
    assert_eq!(judge(files.host(), &patient(3_000)), Ok(()));
    assert!(judge(files.host(), &patient(3_001)).is_err());
    files.remote.max_timeout = Some(Duration::from_secs(10));
    assert_eq!(judge(files.host(), &patient(10_000)), Ok(()));
    assert!(judge(files.host(), &patient(10_001)).is_err());
    // It takes nothing from whom the host's files give more.
    files.remote.max_timeout = Some(Duration::from_secs(1));
    assert_eq!(judge(files.host(), &patient(3_000)), Ok(()));
}

#[test]
fn a_child_keeps_a_probe_that_looks_at_it() {
    let of = |probe, run| Tuning { child: "checker/c".parse().ok(), run: Some(run), ..tune(probe) };
    let mut files = Files::new(&["*"]);
    files.children = vec![child(vec![tcp("port"), tcp("page"), Probe { standby: true, ..exec("deep") }])];
    let both = vec![of("port", false), of("page", false)];
    assert!(judge(files.host(), &settings(both.clone())).unwrap_err().contains("the last probe that runs stays on"));
    // Another one may stand in.
    let other = settings([both.clone(), vec![of("deep", true)]].concat());
    assert_eq!(judge(files.host(), &other), Ok(()));
    let one = settings(vec![of("port", false), Tuning { interval_ms: Some(30_000), ..of("deep", true) }]);
    assert_eq!(judge(files.host(), &one), Ok(()));
    // The files take the others away: what was switched off looks again.
    files.children = vec![child(vec![tcp("port")])];
    let all = effective(files.host(), Some(&settings(vec![of("port", false)])));
    assert_eq!((all.children[0].probes.len(), all.dropped.len()), (1, 1));
    // Where the host looks at nobody by itself, it is as the host has it.
    files.children = vec![child(vec![Probe { standby: true, ..tcp("port") }])];
    assert_eq!(judge(files.host(), &settings(vec![of("port", false)])), Ok(()));
}

#[test]
fn nobody_is_assumed_alive_because_a_collector_looks_away() {
    let off = Tuning { child: "checker/c".parse().ok(), run: Some(false), ..tune("port") };
    let mut files = Files::new(&["*"]);
    let assumed = |files: &Files, tuning: &Tuning| {
        let all = effective(files.host(), Some(&settings(vec![tuning.clone()])));
        all.children[0].assume_alive && all.children[0].probes.is_empty()
    };
    files.children[0].assume_alive = true;
    files.children[0].probes.push(Probe { standby: true, ..exec("deep") });
    assert!(!assumed(&files, &off));
    files.children[0].probes.remove(0);
    let deep = |run| Tuning { run: Some(run), ..Tuning { probe: "deep".parse().unwrap(), ..off.clone() } };
    assert!(assumed(&files, &deep(false)), "the host's files alone say so");
    assert!(!assumed(&files, &deep(true)), "somebody looks");
}

#[test]
fn the_files_win_over_what_was_taken_once() {
    let wanted = settings(vec![
        Tuning { interval_ms: Some(5_000), ..tune("port") },
        Tuning { run: Some(true), ..tune("deep") },
        Tuning { interval_ms: Some(30_000), ..tune("disk") },
    ]);
    let mut files = Files::usual();
    assert_eq!(judge(files.host(), &wanted), Ok(()));
    files.probes.remove(1);
    files.remote.probes.retain(|allowed| *allowed != "deep".parse().unwrap());
    let all = effective(files.host(), Some(&wanted));
    let names: Vec<_> = all.probes.iter().map(|probe| probe.name.as_str()).collect();
    assert_eq!(names, ["port", "secret"]);
    assert_eq!(all.probes[0].interval, Duration::from_secs(5), "what still fits stays");
    assert_eq!(all.dropped.len(), 2, "{:?}", all.dropped);
    files.remote.min_interval = Duration::from_secs(20);
    assert_eq!(effective(files.host(), Some(&wanted)).probes[0].interval, Duration::from_secs(60));
}

#[test]
fn lists_of_probes_read_or_do_not() {
    for text in ["*", "port", "child/checker/c:port", "child/agent/a.b:*"] {
        assert_eq!(text.parse::<Allowed>().unwrap().to_string(), text);
    }
    for text in
        ["", "../port", "/bin/sh", "Port", "child/checker/c", "child/c:port", "child/robot/c:port", "a b", "**", "x*"]
    {
        assert!(text.parse::<Allowed>().is_err(), "{text}");
    }
    let files = Files::new(&["*", "gone", "child/checker/c:port"]);
    let idle: Vec<_> = files.host().idle().iter().map(ToString::to_string).collect();
    assert_eq!(idle, ["gone"]);
    assert!(files.host().unreachable().is_empty());
    assert_eq!(Files::new(&["port"]).host().unreachable(), ["deep"]);
}

fn any_tuning() -> impl Strategy<Value = Tuning> {
    let names = ["port", "disk", "deep", "secret", "nobody", "bin.sh"];
    let number = || proptest::option::of(prop_oneof![0_u32..70_000, any::<u32>()]);
    let child = proptest::option::weighted(0.3, prop_oneof![Just("checker/c"), Just("agent/none")]);
    (child, 0..names.len(), any::<Option<bool>>(), [number(), number(), number(), number()]).prop_map(
        move |(child, name, run, [interval_ms, timeout_ms, rise, fall])| Tuning {
            child: child.map(|key| key.parse().unwrap()),
            probe: names[name].parse().unwrap(),
            run,
            interval_ms,
            timeout_ms,
            rise,
            fall,
        },
    )
}

proptest! {
    /// Whatever is wanted, whether it was judged or not: what runs is what the files define, no faster than they allow.
    #[test]
    fn nothing_runs_that_the_files_do_not_define(
        tunings in proptest::collection::vec(any_tuning(), 0..40),
        allowed in proptest::collection::vec(0_usize..6, 0..4),
    ) {
        let words = ["*", "port", "disk", "deep", "child/checker/c:*", "gone"];
        let files = Files::new(&allowed.iter().map(|n| words[*n]).collect::<Vec<_>>());
        let wanted = settings(tunings);
        let all = effective(files.host(), Some(&wanted));
        let defined: BTreeMap<_, _> = files.host().all().map(|(child, probe)| ((child.cloned(), probe.name.clone()), probe)).collect();
        prop_assert_eq!(all.rows.len(), defined.len());
        for row in &all.rows {
            let probe = defined[&(row.child.clone(), row.probe.name.clone())];
            prop_assert_eq!(&row.probe.check, &probe.check);
            prop_assert!(row.probe.timeout <= row.probe.interval && row.probe.interval <= *limits::INTERVALS.end());
            prop_assert!(row.probe.interval >= files.remote.floor(probe).0);
            prop_assert!(row.probe.timeout <= files.remote.patience(probe));
            if !row.allowed {
                prop_assert!(row.probe == *probe && row.runs != probe.standby && !row.tuned);
            }
        }
        prop_assert!(all.children.iter().all(|child| !child.probes.is_empty()), "who is looked at stays so");
        // Taken as a whole, nothing of it is dropped; and what is dropped was no fit for a whole.
        let whole = judge(files.host(), &wanted);
        prop_assert!(whole.is_err() || all.dropped.is_empty());
        if let Err(why) = whole {
            prop_assert!(Text::fit(&why).as_str().len() <= MAX_TEXT);
        }
        let told = Up::Settings(Box::new(state(1, None, &all.rows)));
        prop_assert!(encode(&told).is_ok());
    }
}

//! Keepers at work on real processes and sockets.

use std::{path::Path, process::Stdio};

use rollcall_common::{
    health::{Health, HealthReport},
    time::SystemClock,
};
use tokio::{net::TcpListener, process::Child};

use super::*;
use crate::health::{Fact, Sort, Source};
use crate::probe::{
    gauge::Rules,
    plan::{Check, Http, Process, Target, Trust, Url},
};

const SOON: Duration = Duration::from_secs(30);

fn probe(name: &str, check: Check) -> Probe {
    Probe {
        name: name.parse().unwrap(),
        check,
        // Nothing in these tests waits for a second look in turn.
        interval: Duration::from_secs(3_600),
        timeout: Duration::from_secs(60),
        rules: Rules { rise: 1, fall: 9, grace: Duration::ZERO },
        worst: Health::Unhealthy,
        standby: false,
    }
}

fn keeper(probes: &[Probe]) -> Keeper {
    Keeper::new(probes, &[], SharedHealth::default(), Host::default(), 7, Arc::new(SystemClock))
}

fn own(keeper: &Keeper) -> HealthReport {
    keeper.board.read(|board| board.verdict(&Subject::Own, SystemClock.now().boot))
}

fn service(pid_file: &Path) -> Child {
    let mut command = tokio::process::Command::new("sleep");
    let child = command.arg("100000").stdin(Stdio::null()).kill_on_drop(true).spawn().unwrap();
    std::fs::write(pid_file, child.id().unwrap().to_string()).unwrap();
    child
}

async fn until(keeper: &mut Keeper, health: Health) {
    let seen = async {
        while own(keeper).health != health {
            keeper.next().await;
        }
    };
    let within = tokio::time::timeout(SOON, seen).await;
    assert!(within.is_ok(), "not {health}, but {:?}", own(keeper));
}

fn process(file: &Path) -> Probe {
    probe("main", Check::Process(Process::PidFile { file: file.into(), name: None }))
}

#[tokio::test]
async fn an_end_is_noticed_between_looks_and_a_restart_soon_after() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x.pid");
    let mut child = service(&file);
    let mut keeper = keeper(&[process(&file)]);
    until(&mut keeper, Health::Healthy).await;
    child.start_kill().unwrap();
    until(&mut keeper, Health::Unhealthy).await;
    assert!(own(&keeper).reason.as_str().starts_with("main: process "), "{:?}", own(&keeper));
    // The hour between two looks does not pass: it is looked for again.
    let _again = service(&file);
    until(&mut keeper, Health::Healthy).await;
}

/// A service that hands over to its successor was never down.
#[tokio::test]
async fn a_successor_that_is_there_already_is_no_crash() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x.pid");
    let mut old = service(&file);
    let mut keeper = keeper(&[process(&file)]);
    until(&mut keeper, Health::Healthy).await;
    let mut new = service(&file);
    old.start_kill().unwrap();
    let (subject, news) = tokio::time::timeout(SOON, keeper.next()).await.expect("it looks");
    assert_eq!((subject, news, own(&keeper).health), (0, false, Health::Healthy));
    // And it is the successor that is watched now.
    new.start_kill().unwrap();
    until(&mut keeper, Health::Unhealthy).await;
}

/// A number in a file that nobody wrote anew was given to another process: the one that was watched is gone.
#[tokio::test]
async fn a_number_that_was_given_away_deceives_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x.pid");
    let mut child = service(&file);
    let mut keeper = keeper(&[process(&file)]);
    until(&mut keeper, Health::Healthy).await;
    // What the watch has seen by then, though its number is in use.
    let watch = keeper.posts[0].watch.take().unwrap();
    watch.task.abort();
    keeper.posts[0].spent = watch.found_by;
    keeper.posts[0].sudden = true;
    keeper.look(0);
    until(&mut keeper, Health::Unhealthy).await;
    assert!(own(&keeper).reason.as_str().contains("is another process's by now"), "{:?}", own(&keeper));
    // Written anew, it counts, though it is the same number.
    std::fs::write(dir.path().join("y.pid"), child.id().unwrap().to_string()).unwrap();
    std::fs::rename(dir.path().join("y.pid"), &file).unwrap();
    until(&mut keeper, Health::Healthy).await;
    child.start_kill().unwrap();
}

/// A process that has ended and that nobody has collected is no reason to look again and again, hidden or not.
#[tokio::test]
async fn a_process_that_nobody_collected_is_gone_and_wakes_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x.pid");
    // Its parent never waits.
    let script = format!("sleep 100000 & echo $! > {0}.tmp; mv {0}.tmp {0}; exec sleep 100000", file.display());
    let mut parent = tokio::process::Command::new("/bin/sh");
    let parent = parent.args(["-c", &script]).stdin(Stdio::null()).kill_on_drop(true).spawn().unwrap();
    let written = async {
        while !file.exists() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, written).await.expect("it began");
    let pid: i32 = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
    // As under hidepid: nobody else's process is to be seen.
    let hidden = tempfile::tempdir().unwrap();
    for host in [Host::default(), Host::with_proc(hidden.path())] {
        let mut keeper = Keeper::new(&[process(&file)], &[], SharedHealth::default(), host, 7, Arc::new(SystemClock));
        let _ = tokio::time::timeout(SOON, keeper.next()).await.expect("it looks");
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        until(&mut keeper, Health::Unhealthy).await;
        assert!(keeper.posts[0].watch.is_none(), "there is nobody to watch");
    }
    drop(parent);
}

/// However many looks hang: a crash does not stand behind them.
#[tokio::test]
async fn a_crash_waits_for_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x.pid");
    let mut child = service(&file);
    let hang = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = Url::read(&format!("http://{}/", hang.local_addr().unwrap())).unwrap();
    let page = Http { url, status: vec![(200, 299)], body: None, redirects: 0, trust: Trust::Host };
    let mut probes = vec![process(&file)];
    probes.extend((0..2 * LOOKS).map(|n| probe(&format!("hang-{n}"), Check::Http(page.clone()))));
    let mut keeper = keeper(&probes);
    let first = tokio::time::timeout(SOON, keeper.next()).await.expect("the process is seen");
    assert_eq!(first.0, 0);
    assert_eq!(keeper.room.available_permits(), 0, "all others hang");
    child.start_kill().unwrap();
    until(&mut keeper, Health::Unhealthy).await;
}

#[tokio::test]
async fn whoever_has_no_probe_is_left_in_peace() {
    let mut idle = keeper(&[]);
    let news = tokio::time::timeout(Duration::from_millis(100), idle.next()).await;
    assert!(news.is_err(), "{news:?}");
    let closed = Check::Tcp(Target::read("127.0.0.1:1").unwrap());
    let mut keeper = keeper(&[probe("port", closed)]);
    until(&mut keeper, Health::Unhealthy).await;
}

/// A probe that stays knows what was seen; one that goes has said nothing, one that comes has yet to look.
#[tokio::test]
async fn other_probes_take_over_from_those_that_were() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x.pid");
    let mut child = service(&file);
    let gone = probe("gone", Check::Process(Process::PidFile { file: dir.path().join("nothing"), name: None }));
    let mut old = keeper(&[process(&file), gone]);
    until(&mut old, Health::Unhealthy).await;
    let seen = |keeper: &Keeper| {
        let named = |name: &str| Source { sort: Sort::Probe, name: name.parse().unwrap(), fact: Fact::Service };
        let says = |name| keeper.board.read(|board| board.said(&Subject::Own, &named(name)).map(|said| said.health));
        [says("main"), says("gone"), says("comes")]
    };
    while seen(&old)[0] != Some(Health::Healthy) {
        old.next().await;
    }
    let comes = probe("comes", Check::Process(Process::Cgroup("nowhere".into())));
    old.follow(&[comes, process(&file)], &[]);
    let mut new = old;
    assert_eq!(seen(&new), [Some(Health::Healthy), None, Some(Health::Unchecked)]);
    assert!(new.is_alive(0));
    // It is watched as before.
    child.start_kill().unwrap();
    let end = async {
        while seen(&new)[0] != Some(Health::Unhealthy) {
            new.next().await;
        }
    };
    tokio::time::timeout(SOON, end).await.unwrap();
}

/// What a keeper looks at, what is said, and whether all of it stands in line.
fn shape(keeper: &Keeper) -> Vec<String> {
    let now = SystemClock.now().boot;
    let mut shape: Vec<String> = keeper
        .posts
        .iter()
        .map(|post| {
            let source = keeper.ledger.source(post.at).expect("a standing");
            assert_eq!(source.name, post.probe.name);
            let said = keeper.board.read(|board| board.said(&keeper.subjects[post.at.subject], &source).is_some());
            assert!(said, "{source} says something");
            format!("{:?} {:?}", keeper.subjects[post.at.subject], post.probe)
        })
        .collect();
    let tickets: std::collections::BTreeSet<u64> = keeper.posts.iter().map(|post| post.ticket).collect();
    assert_eq!(tickets.len(), keeper.posts.len());
    let sources = keeper.board.read(|board| {
        let subjects: Vec<_> = board.subjects().cloned().collect();
        let said = subjects.iter().map(|subject| board.of(subject).count()).sum::<usize>();
        shape.push(format!("{subjects:?} {:?}", board.verdict(&Subject::Own, now)));
        said
    });
    assert_eq!(sources, keeper.posts.len(), "nobody else says anything");
    shape
}

fn plan(numbers: &[(u8, u8, u8)]) -> (Vec<Probe>, Vec<super::super::plan::Child>) {
    use rollcall_common::{service::Pairs, wire::children::ChildAbout};
    let (mut own, mut children): (Vec<Probe>, Vec<super::super::plan::Child>) = (Vec::new(), Vec::new());
    for (whose, name, what) in numbers {
        let check = Check::Tcp(Target { host: "127.0.0.1".into(), port: u16::from(what % 2) + 1 });
        let probe =
            Probe { interval: Duration::from_secs(u64::from(what / 2) + 1), ..probe(&format!("p{name}"), check) };
        let probes = if *whose == 0 {
            &mut own
        } else {
            let key: rollcall_common::id::ServiceKey = format!("checker/c{whose}").parse().unwrap();
            let at = children.iter().position(|child| child.key == key).unwrap_or_else(|| {
                let about = ChildAbout { checker_kind: None, labels: Pairs::default(), metadata: Pairs::default() };
                children.push(super::super::plan::Child {
                    key,
                    parent: None,
                    about,
                    probes: Vec::new(),
                    assume_alive: false,
                });
                children.len() - 1
            });
            &mut children[at].probes
        };
        if probes.iter().all(|other| other.name != probe.name) {
            probes.push(probe);
        }
    }
    (own, children)
}

proptest::proptest! {
    /// Whatever it looked at before: it looks at what one would that was started with it.
    #[test]
    fn following_is_as_good_as_starting(
        plans in proptest::collection::vec(proptest::collection::vec((0_u8..3, 0_u8..3, 0_u8..6), 0..8), 1..6),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let _entered = runtime.enter();
        let mut running = keeper(&[]);
        for numbers in &plans {
            let (own, children) = plan(numbers);
            running.follow(&own, &children);
            let board = SharedHealth::default();
            children.iter().for_each(|child| board.edit(|board| board.admit(child.key.clone())));
            let fresh = Keeper::new(&own, &children, board, Host::default(), 7, Arc::new(SystemClock));
            proptest::prop_assert_eq!(shape(&running), shape(&fresh));
            let again = shape(&running);
            let tickets: Vec<u64> = running.posts.iter().map(|post| post.ticket).collect();
            running.follow(&own, &children);
            proptest::prop_assert_eq!(shape(&running), again);
            proptest::prop_assert_eq!(tickets, running.posts.iter().map(|post| post.ticket).collect::<Vec<_>>(), "nobody begins anew");
        }
    }
}

/// Who stays is not asked again: its state and its watch go on, among others that come and go.
#[tokio::test]
async fn a_watch_outlives_changes_around_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x.pid");
    let mut child = service(&file);
    let mut keeper = keeper(&[process(&file)]);
    until(&mut keeper, Health::Healthy).await;
    let closed = Check::Tcp(Target::read("127.0.0.1:1").unwrap());
    let faster = Probe {
        interval: Duration::from_secs(600),
        rules: Rules { rise: 1, fall: 5, grace: Duration::ZERO },
        ..process(&file)
    };
    keeper.follow(&[probe("port", closed), faster.clone()], &[]);
    until(&mut keeper, Health::Unhealthy).await;
    assert!(own(&keeper).reason.as_str().starts_with("port: "), "{:?}", own(&keeper));
    keeper.follow(&[faster], &[]);
    assert_eq!(own(&keeper).health, Health::Healthy, "it was not asked again");
    child.start_kill().unwrap();
    until(&mut keeper, Health::Unhealthy).await;
    assert!(own(&keeper).reason.as_str().starts_with("main: process "), "{:?}", own(&keeper));
}

//! A collector that means no good, against the real program: what runs is what the host's files say, no faster than
//! they allow, whatever it sends and however fast.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::atomic::Ordering::SeqCst,
    time::Duration,
};

use rollcall_common::{
    service::Pairs,
    time::{Clock as _, SystemClock},
    wire::{
        codec::encode,
        message::{Down, capability},
        settings::{MAX_TUNED, Settings, Tuning},
    },
};

use super::fake::{Authority, Fake, Seen};

/// The floor of programs in this host's files.
const FLOOR: Duration = Duration::from_secs(5);

fn tune(probe: &str) -> Tuning {
    let probe = probe.parse().unwrap();
    Tuning { child: None, probe, run: None, interval_ms: None, timeout_ms: None, rise: None, fall: None }
}

fn settings(revision: u64, probes: Vec<Tuning>) -> Down {
    Down::Settings(Box::new(Settings { revision, labels: Pairs::default(), probes }))
}

/// A probe that leaves a mark each time that it runs.
fn program(name: &str, marks: &Path, more: &str) -> String {
    let marks = marks.join(name);
    format!(
        "[[probe]]\nname = \"{name}\"\ntype = \"exec\"\n{more}\n\
         command = [\"/bin/sh\", \"-c\", \"echo ran >> {}\"]\n",
        marks.display()
    )
}

fn marks(dir: &Path, name: &str) -> usize {
    std::fs::read_to_string(dir.join(name)).unwrap_or_default().lines().count()
}

/// The program, with its files.
struct Victim {
    _process: tokio::process::Child,
    dir: tempfile::TempDir,
}

impl Victim {
    fn start(authority: &Authority, fake: &Fake) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| -> PathBuf { dir.path().join(name) };
        std::fs::create_dir(path("marks")).unwrap();
        fake.manners().addresses.lock().unwrap().push(fake.addr);
        std::fs::write(path("token"), &*authority.token(&[fake.addr]).reveal()).unwrap();
        let config = format!(
            "kind = \"poller\"\nid = \"p1\"\nstate_dir = \"{}\"\ntoken_file = \"{}\"\n\
             [remote]\nprobes = [\"mine\", \"deep\"]\nmin_exec_interval = \"{}s\"\n{}{}{}{}",
            path("state").display(),
            path("token").display(),
            FLOOR.as_secs(),
            program("mine", &path("marks"), "interval = \"10s\""),
            program("deep", &path("marks"), "interval = \"10s\"\nstandby = true"),
            program("secret", &path("marks"), "interval = \"1h\""),
            program("dark", &path("marks"), "interval = \"1h\"")
                .replace("[[probe]]", "[[probe]]\nworst = \"degraded\""),
        );
        std::fs::write(path("agent.toml"), config).unwrap();
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_rollcall-agent"));
        command.args(["run", "--config"]).arg(path("agent.toml"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        Self { _process: command.spawn().unwrap(), dir }
    }

    fn ran(&self, name: &str) -> usize {
        marks(&self.dir.path().join("marks"), name)
    }
}

/// Until the last answer is about that revision, taken or not.
async fn answered(fake: &Fake, revision: u64, taken: bool) -> Seen {
    let fits = |seen: &Seen| {
        seen.states.last().is_some_and(|state| match &state.refused {
            Some(refused) => !taken && refused.revision == revision,
            None => taken && state.revision == revision,
        })
    };
    fake.until(&format!("an answer to {revision}"), fits).await
}

#[tokio::test]
async fn a_hostile_collector_gets_what_the_files_allow_and_no_more() {
    let authority = Authority::new();
    let fake = Fake::start(&authority, 1_000);
    fake.manners().capabilities.store(capability::SETTINGS, SeqCst);
    let begin = SystemClock.now().boot;
    let victim = Victim::start(&authority, &fake);
    fake.until("a first state", |seen| !seen.states.is_empty()).await;

    // On and off, fast and slow, as often as it is listened to: each time it would look at once.
    let mut revision = 0;
    for round in 0..6 {
        revision += 1;
        let on = Tuning { run: Some(round % 2 == 0), interval_ms: Some(5_000), ..tune("mine") };
        let deep = Tuning { run: Some(round % 2 == 1), interval_ms: Some(5_000 + round), ..tune("deep") };
        fake.say(&settings(revision, vec![on, deep]));
        answered(&fake, revision, true).await;
    }
    let taken = revision;

    // Whatever is refused leaves what is in force.
    let of_child = Tuning { child: "checker/c".parse().ok(), ..tune("mine") };
    let refused: Vec<Vec<Tuning>> = vec![
        vec![Tuning { run: Some(true), ..tune("secret") }],
        vec![Tuning { interval_ms: Some(1_000), ..tune("secret") }],
        vec![tune("bin.sh")],
        vec![of_child],
        vec![Tuning { interval_ms: Some(0), ..tune("mine") }],
        vec![Tuning { interval_ms: Some(1), ..tune("mine") }],
        vec![Tuning { timeout_ms: Some(u32::MAX), ..tune("mine") }],
        vec![tune("mine"), tune("mine")],
        vec![tune("mine"); MAX_TUNED + 1],
    ];
    for probes in refused {
        revision += 1;
        fake.say(&settings(revision, probes));
        let seen = answered(&fake, revision, false).await;
        assert_eq!(seen.states.last().unwrap().revision, taken);
    }
    // Backwards, and the same number with other words: judged like any other.
    fake.say(&settings(2, vec![Tuning { run: Some(false), ..tune("mine") }]));
    answered(&fake, 2, true).await;
    fake.say(&settings(2, vec![Tuning { interval_ms: Some(1), ..tune("mine") }]));
    answered(&fake, 2, false).await;
    fake.say(&settings(1, Vec::new()));
    answered(&fake, 1, true).await;

    // A name that leads elsewhere is no name: the frame does not read.
    let frame = encode(&settings(9, vec![tune("aa.aa.bin.sh")])).unwrap();
    let at = frame.windows(12).position(|bytes| bytes == b"aa.aa.bin.sh").unwrap();
    let mut tricked = frame.clone();
    tricked[at..at + 12].copy_from_slice(b"../../bin/sh");
    let closes = fake.seen().closes.len();
    fake.say_bytes(&tricked);
    let hellos = fake.seen().hellos.len();
    fake.until("the end of that session", |seen| seen.closes.len() > closes).await;
    fake.until("the next one", |seen| seen.hellos.len() > hellos).await;

    // As much as the line takes: it is hung up on, and comes back later.
    let (closes, hellos) = (fake.seen().closes.len(), fake.seen().hellos.len());
    for n in 0..5_000 {
        fake.say(&settings(100 + n, vec![Tuning { run: Some(n % 2 == 0), ..tune("deep") }; MAX_TUNED]));
    }
    let ended = |seen: &Seen| seen.closes.iter().skip(closes).any(|close| close.contains("PROTOCOL"));
    fake.until("the flood's end", ended).await;
    let seen = fake.until("it comes back", |seen| seen.hellos.len() > hellos).await;
    assert!(seen.states.last().is_some_and(|state| state.revision == 1), "{:?}", seen.states.last());

    let most = SystemClock.now().boot.since(begin).as_secs() / FLOOR.as_secs() + 1;
    for name in ["mine", "deep"] {
        let ran = victim.ran(name);
        assert!(ran >= 1 && ran as u64 <= most, "{name} ran {ran} times, over {most}");
    }
    // What nobody may touch ran as the files have it: once in this hour.
    assert_eq!((victim.ran("secret"), victim.ran("dark")), (1, 1));
    let mut programs: Vec<_> =
        std::fs::read_dir(victim.dir.path().join("marks")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    programs.sort();
    assert_eq!(programs, ["dark", "deep", "mine", "secret"]);
}

//! Settings of the collector, and the host's files read again, in a sidecar that runs.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, atomic::Ordering::SeqCst},
};

use rollcall_agent::{
    agent::{Agent, Reread},
    config::{Config, Layer, Source},
    signals::Signal,
    status::{Doing, Report},
};
use rollcall_common::{
    health::{Health, Progress},
    service::Pairs,
    time::SystemClock,
    wire::{
        message::{Down, capability},
        settings::{Settings, Tuning},
    },
};

use super::{
    Host, Running,
    fake::{Authority, Fake, Seen},
};

const ALL: u64 = capability::SETTINGS | capability::ABOUT | capability::PROGRESS;

/// A host whose one file is the text at hand.
#[derive(Clone)]
struct File(Arc<Mutex<String>>);

impl Source for File {
    fn text(&self, _path: &Path) -> std::io::Result<Option<String>> {
        Ok(Some(self.0.lock().unwrap().clone()))
    }
    fn files(&self, _dir: &Path) -> std::io::Result<Vec<PathBuf>> {
        Ok(Vec::new())
    }
    fn variable(&self, _name: &str) -> Option<String> {
        None
    }
    fn is_root(&self) -> bool {
        false
    }
}

/// A sidecar whose file may change.
struct Site {
    host: Host,
    file: File,
    fake: Fake,
}

const PORT: &str = "[[probe]]\nname = \"port\"\ntype = \"tcp\"\naddress = \"127.0.0.1:1\"\ninterval = \"1h\"\n";
const DEEP: &str =
    "[[probe]]\nname = \"deep\"\ntype = \"tcp\"\naddress = \"127.0.0.1:1\"\ninterval = \"1h\"\nstandby = true\n";
const REMOTE: &str = "[remote]\nprobes = [\"port\", \"deep\"]\n";

impl Site {
    fn new(text: &str) -> Self {
        let authority = Authority::new();
        let fake = Fake::start(&authority, 200);
        fake.manners().capabilities.store(ALL, SeqCst);
        let host = Host::new();
        host.put_token(&authority, &[&fake]);
        Self { host, file: File(Arc::new(Mutex::new(text.to_owned()))), fake }
    }

    fn start(&self) -> Running {
        let dir = self.host.0.path();
        let flags = move |dir: &Path| Layer {
            kind: Some(rollcall_common::id::Kind::Poller),
            id: "p1".parse().ok(),
            state_dir: Some(dir.join("state")),
            token_file: Some(dir.join("token")),
            ..Layer::default()
        };
        let config = Config::load(&self.file, None, flags(dir)).unwrap();
        let (file, again) = (self.file.clone(), dir.to_owned());
        let agent = Agent::prepare(config, Arc::new(SystemClock)).unwrap();
        let agent = agent.rereading(Reread::by(move || Config::load(&file, None, flags(&again))));
        Host::run(agent, dir.join("state/agent.sock"))
    }

    async fn reload(&self, running: &Running, text: &str) {
        text.clone_into(&mut self.file.0.lock().unwrap());
        running.signals.send(Signal::Reload).await.unwrap();
    }

    fn set(&self, revision: u64, probes: Vec<Tuning>) {
        let labels = std::collections::BTreeMap::from([("site".to_owned(), format!("r{revision}"))]);
        let settings = Settings { revision, labels: Pairs::try_from(labels).unwrap(), probes };
        self.fake.say(&Down::Settings(Box::new(settings)));
    }

    /// Waits for an answer: the revision in force, and what is said of one that is not.
    async fn answer(&self, revision: u64, refused: Option<&str>) -> Seen {
        let fits = |seen: &Seen| {
            seen.states.last().is_some_and(|state| {
                let why = state.refused.as_ref().map(|refused| refused.why.as_str());
                state.revision == revision
                    && match (why, refused) {
                        (Some(why), Some(words)) => why.contains(words),
                        (why, refused) => why == refused,
                    }
            })
        };
        self.fake.until(&format!("{revision} in force, refused {refused:?}"), fits).await
    }
}

fn tune(probe: &str, interval_ms: u32) -> Tuning {
    let probe = probe.parse().unwrap();
    Tuning { child: None, probe, run: None, interval_ms: Some(interval_ms), timeout_ms: None, rise: None, fall: None }
}

fn runs(probe: &str) -> Tuning {
    Tuning { run: Some(true), interval_ms: None, ..tune(probe, 0) }
}

fn interval(report: &Report, probe: &str) -> Option<(u64, bool, String)> {
    let found = report.settings.probes.iter().find(|view| view.name == probe)?;
    Some((found.interval_ms, found.runs, found.set_by.clone()))
}

#[tokio::test]
async fn settings_are_applied_kept_shown_and_the_files_win() {
    let site = Site::new(&format!("{REMOTE}{PORT}{DEEP}"));
    let running = site.start();
    let seen = site.answer(0, None).await;
    let first = &seen.states[0].probes;
    assert_eq!(
        first.iter().map(|probe| (probe.allowed, probe.runs)).collect::<Vec<_>>(),
        [(true, true), (true, false)]
    );

    site.set(7, vec![tune("port", 60_000), runs("deep")]);
    site.answer(7, None).await;
    let host = |text: &str| Some((3_600_000, true, text.to_owned()));
    let set = Some((60_000, true, "collector".to_owned()));
    let report = running.until("in force", |report| interval(report, "port") == set).await;
    assert_eq!((report.settings.revision, interval(&report, "deep")), (7, host("collector")));
    assert_eq!(report.settings.labels.get("site").map(String::as_str), Some("r7"));
    running.until("deep looks", |report| report.sources.iter().any(|source| source.name == "deep")).await;

    // One bad apple: nothing of it, and a smaller number is news.
    site.set(3, vec![tune("port", 120_000), tune("other", 60_000)]);
    site.answer(7, Some("other: the host's files have no such probe")).await;
    site.set(3, vec![tune("port", 1)]);
    site.answer(7, Some("below the host's floor of 5s (remote.min_interval)")).await;
    assert_eq!(running.until("still", |_| true).await.settings.probes, report.settings.probes);
    site.set(3, vec![tune("port", 120_000), runs("deep")]);
    site.answer(3, None).await;

    // The next start needs no collector for it.
    running.stop().await;
    let before = site.fake.seen().hellos.len();
    site.fake.manners().mute.store(true, SeqCst);
    let running = site.start();
    running.until("kept", |report| interval(report, "port") == Some((120_000, true, "collector".to_owned()))).await;
    site.fake.until("the next greeting", |seen| seen.hellos.len() > before).await;
    site.fake.manners().mute.store(false, SeqCst);
    site.answer(3, None).await;

    // The files take it away, and give it back.
    site.reload(&running, &format!("[remote]\nprobes = [\"port\"]\n{PORT}")).await;
    site.answer(3, Some("deep: the host's files have no such probe")).await;
    let report = running.until("partly", |report| report.settings.probes.len() == 1).await;
    assert_eq!(interval(&report, "port"), Some((120_000, true, "collector".to_owned())));
    site.reload(&running, PORT).await;
    site.answer(3, Some("port: may not be tuned")).await;
    running.until("host's", |report| interval(report, "port") == host("host")).await;
    site.reload(&running, &format!("{REMOTE}{PORT}{DEEP}")).await;
    site.answer(3, None).await;
    running.until("back", |report| interval(report, "deep") == host("collector")).await;

    // What the files did not allow is taken once they do, and nobody has to send it again.
    site.set(8, vec![tune("port", 10_000)]);
    site.answer(8, None).await;
    site.reload(&running, &format!("{REMOTE}min_interval = \"20s\"\n{PORT}{DEEP}")).await;
    site.answer(8, Some("port: interval 10s is below the host's floor of 20s")).await;
    site.set(4, vec![tune("port", 15_000), runs("deep")]);
    site.answer(8, Some("port: interval 15s is below the host's floor of 20s")).await;
    site.reload(&running, &format!("{REMOTE}{PORT}{DEEP}")).await;
    site.answer(4, None).await;
    let report = running.until("mended", |report| report.settings.revision == 4).await;
    assert_eq!(
        (interval(&report, "port"), interval(&report, "deep")),
        (Some((15_000, true, "collector".into())), host("collector"))
    );
    let kept = std::fs::read_to_string(site.host.0.path().join("state/settings")).unwrap();
    assert!(kept.contains("15000"), "{kept}");

    // Nothing wanted: the files alone.
    site.set(9, Vec::new());
    site.answer(9, None).await;
    running.until("alone", |report| interval(report, "deep") == Some((3_600_000, false, "host".to_owned()))).await;
    running.stop().await;
}

#[tokio::test]
async fn what_cannot_be_kept_is_not_applied_and_what_is_damaged_is_not_believed() {
    let site = Site::new(&format!("{REMOTE}{PORT}{DEEP}"));
    let running = site.start();
    site.answer(0, None).await;
    let kept = site.host.0.path().join("state/settings");
    // Nothing can be put over a directory that holds something.
    std::fs::create_dir_all(kept.join("x")).unwrap();
    site.set(1, vec![tune("port", 60_000)]);
    site.answer(0, Some("this host cannot keep them: cannot write")).await;
    let report = running.until("untouched", |report| report.settings.refused.is_some()).await;
    assert_eq!(interval(&report, "port"), Some((3_600_000, true, "host".to_owned())));
    std::fs::remove_dir_all(&kept).unwrap();
    site.set(1, vec![tune("port", 60_000)]);
    site.answer(1, None).await;
    running.stop().await;

    let text = std::fs::read_to_string(&kept).unwrap();
    for (damaged, words) in [
        (text.replace("\"port\"", "\"../port\""), "remove it; the collector sends them again"),
        (text[..text.len() / 2].to_owned(), "is damaged"),
        (text.replace("\"format\":1", "\"format\":9"), "upgrade rollcall-agent"),
    ] {
        std::fs::write(&kept, damaged).unwrap();
        let running = site.start();
        let report = running.until("warned", |report| report.warnings.iter().any(|w| w.contains(words))).await;
        assert_eq!(interval(&report, "port"), Some((3_600_000, true, "host".to_owned())));
        let report = running.until("live", |report| report.state == Doing::Live).await;
        assert!(report.warnings.iter().any(|warning| warning.contains("what the collector set is not in force")));
        running.stop().await;
    }
    // New ones take its place.
    let running = site.start();
    running.until("live", |report| report.state == Doing::Live).await;
    site.set(2, vec![tune("port", 60_000)]);
    site.answer(2, None).await;
    let report = running.until("in force", |report| report.settings.revision == 2).await;
    assert!(report.warnings.is_empty(), "{:?}", report.warnings);
    running.stop().await;
}

#[tokio::test]
async fn the_files_are_read_again_and_what_does_not_pass_changes_nothing() {
    let site = Site::new(PORT);
    let running = site.start();
    let source = |report: &Report, name: &str| report.sources.iter().any(|source| source.name == name);
    running.until("looked", |report| source(report, "port") && report.health.health == Health::Unhealthy).await;
    let seen = site.fake.until("names", |seen| !seen.abouts.is_empty()).await;
    assert!(seen.abouts[0].labels.is_empty());

    let child = "[[child]]\nkind = \"agent\"\nid = \"a\"\nassume_alive = true\n";
    let labels = "[labels]\ntier = \"1\"\n";
    site.reload(&running, &format!("{labels}{PORT}{}{child}", PORT.replace("port", "second").replace("1h", "2h")))
        .await;
    let report = running.until("warned of it", |report| !report.warnings.is_empty()).await;
    assert!(report.warnings[0].contains("[[probe]] \"second\": interval: give a time between 1s and 1h"), "{report:?}");
    assert!(report.warnings[0].contains(".toml:"), "{report:?}");
    assert!(!source(&report, "second") && report.state == Doing::Live);

    site.reload(&running, &format!("{labels}{PORT}{}{child}", PORT.replace("port", "second"))).await;
    let report = running.until("both", |report| source(report, "second")).await;
    assert!(report.warnings.is_empty() && source(&report, "port"), "{report:?}");
    let seen = site.fake.until("new names", |seen| seen.abouts.len() == 2).await;
    assert_eq!(seen.abouts[1].labels.get("tier"), Some("1"));
    assert_eq!(seen.hellos.len(), 1, "nothing of it ends the session");

    // What cannot change is named, and the rest changes.
    site.reload(&running, "socket = \"/nowhere\"\nparent = \"x\"\n").await;
    let report = running.until("refused", |report| !report.warnings.is_empty()).await;
    assert!(report.warnings[0].contains("parent"), "a poller has none: {report:?}");
    assert!(source(&report, "second"));
    site.reload(&running, "bind_machine = false\n[log]\nformat = \"json\"\n").await;
    let report =
        running.until("named", |report| report.warnings.iter().any(|w| w.contains("until the next start"))).await;
    assert!(report.warnings[0].ends_with("stay as they were: bind_machine, log.format"), "{report:?}");
    // Nobody looks any more: what was said once does not stand.
    let seen =
        site.fake.until("nobody", |seen| seen.healths.last().is_some_and(|h| h.health == Health::Unchecked)).await;
    assert_eq!(seen.healths.last().unwrap().reason.as_str(), "");
    assert!(running.until("gone", |report| report.sources.is_empty()).await.settings.probes.is_empty());
    running.stop().await;
    // And a process that never looked says so too.
    let before = site.fake.seen().healths.len();
    let running = site.start();
    let seen = site.fake.until("nobody looks", |seen| seen.healths.len() > before).await;
    assert_eq!(seen.healths.last().unwrap().health, Health::Unchecked);
    running.stop().await;
}

/// Read again while it waits for a token, and with what was read it enrolls.
#[tokio::test]
async fn who_waits_for_a_token_reads_again_too() {
    let site = Site::new("kind = \"nonsense\"".replace("nonsense", "poller").as_str());
    let token = site.host.0.path().join("token");
    let text = std::fs::read(&token).unwrap();
    std::fs::remove_file(&token).unwrap();
    let running = site.start();
    running.until("waiting", |report| report.state == Doing::WaitingForToken).await;
    site.reload(&running, &format!("[labels]\ntier = \"2\"\n{PORT}")).await;
    running.until("shown", |report| report.settings.probes.len() == 1).await;
    std::fs::write(&token, text).unwrap();
    let seen = site.fake.until("names", |seen| !seen.abouts.is_empty()).await;
    assert_eq!(seen.abouts[0].labels.get("tier"), Some("2"));
    running.until("looked", |report| report.sources.len() == 1).await;
    running.stop().await;
}

#[tokio::test]
async fn progress_is_told_apart() {
    let site = Site::new(
        "[[probe]]\ntype = \"progress\"\nfile = \"/nonexistent\"\nwithin = \"1s\"\ninterval = \"1s\"\nfall = 1\n",
    );
    let running = site.start();
    let stalled = |seen: &Seen| seen.progress.last().is_some_and(|said| said.progress == Progress::Stalled);
    let seen = site.fake.until("it does not move", stalled).await;
    assert!(seen.healths.iter().all(|said| said.health != Health::Unhealthy), "{:?}", seen.healths);
    running.stop().await;
}

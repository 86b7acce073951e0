//! What the packages ship says the truth: the default configurations are accepted as they stand, with every
//! line of theirs uncommented, and then still mean the defaults; the units start what exists, where the programs
//! look for it; the scripts are sound. What they do on a real system is `make test-packages`' matter.
#![expect(clippy::expect_used, reason = "a test's own preparation fails loudly")]

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use rollcall_agent::config as agent;
use rollcall_collector::{admission, config as collector, http, ingest};

/// A host that has one file.
struct OneFile(String);

const AT: &str = "/etc/rollcall/test.toml";

impl agent::Source for OneFile {
    fn text(&self, path: &Path) -> io::Result<Option<String>> {
        Ok((path == Path::new(AT)).then(|| self.0.clone()))
    }

    fn files(&self, _dir: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(vec![])
    }

    fn variable(&self, _name: &str) -> Option<String> {
        None
    }

    fn is_root(&self) -> bool {
        false
    }
}

impl collector::Source for OneFile {
    fn file(&self, path: &Path) -> io::Result<String> {
        if path == Path::new(AT) { Ok(self.0.clone()) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    fn files_in(&self, _dir: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(vec![])
    }

    fn variable(&self, _name: &str) -> Option<std::ffi::OsString> {
        None
    }
}

fn shipped(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging").join(name);
    fs::read_to_string(path).expect("a shipped file")
}

/// The file with every setting in force: a comment sign directly before a name or a table hides one.
fn in_full(text: &str) -> String {
    let uncommented = |line: &str| match line.strip_prefix('#') {
        Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => rest.to_owned(),
        Some(_) | None => line.to_owned(),
    };
    text.lines().map(|line| uncommented(line) + "\n").collect()
}

/// The settings that a program names when it meets one that it does not know.
fn known_by(complaint: &str, quote: &[char]) -> Vec<String> {
    let (_, list) = complaint.rsplit_once("known are ").or_else(|| complaint.rsplit_once("one of ")).expect("a list");
    list.lines().next().unwrap_or_default().split(", ").map(|name| name.trim_matches(quote).into()).collect()
}

#[test]
fn the_agents_configuration_is_true() {
    let load = |text: String| agent::Config::load(&OneFile(text), Some(Path::new(AT)), agent::Layer::default());
    let text = shipped("config/agent.toml");
    let quiet = load(text.clone()).expect("accepted as it is shipped");
    assert!(quiet.kind.is_none() && quiet.labels.is_empty(), "nothing is in force before somebody writes it");
    let full = load(in_full(&text).replace("kind = \"agent\"", "kind = \"checker\"")).expect("accepted in full");
    assert_eq!(full.state_dir, quiet.state_dir);
    assert_eq!(full.token.file, quiet.token.file);
    assert_eq!(full.token.consume_file, quiet.token.consume_file);
    assert_eq!(full.revoked_retry, quiet.revoked_retry);
    assert_eq!(full.log, quiet.log);
    let complaint = load("nonsense = 1".into()).expect_err("unknown").to_string();
    let examples = shipped("config/examples/probes.toml") + &shipped("config/examples/children.toml");
    for key in known_by(&complaint, &['`']).iter().filter(|key| *key != "socket") {
        let forms = [format!("#{key} = "), format!("#[{key}]")];
        let shown = forms.iter().any(|form| text.contains(form)) || examples.contains(&format!("\n[[{key}]]"));
        assert!(shown, "{key} is not shown");
    }
}

#[test]
fn the_collectors_configuration_is_true() {
    let flags = collector::Flags { file: Some(AT.into()), ..collector::Flags::default() };
    let load = |text: String| collector::Config::load(&OneFile(text), &flags);
    let text = shipped("config/collector.toml");
    let quiet = load(text.clone()).expect("accepted as it is shipped");
    let full = load(in_full(&text)).expect("accepted in full");
    assert_eq!(full.state_dir, quiet.state_dir);
    assert_eq!(full.trust_domain, quiet.trust_domain);
    assert_eq!((full.quic_listen, full.http_listen), (quiet.quic_listen, quiet.http_listen));
    assert_eq!(full.pace, quiet.pace);
    assert_eq!(full.leaf_ttl, quiet.leaf_ttl);
    assert_eq!(full.registry, quiet.registry);
    assert_eq!((full.last_seen_flush, full.observe_mark), (quiet.last_seen_flush, quiet.observe_mark));
    assert_eq!(full.metrics, quiet.metrics);
    assert_eq!(full.log, quiet.log);
    let (shown, real) = (&full.limits, admission::Limits::default());
    assert_eq!(shown.handshakes.map(|n| n as usize), Some(real.handshakes));
    assert_eq!(shown.incoming.map(|n| n as usize), Some(real.incoming));
    assert_eq!(shown.per_address.map(|n| n as usize), Some(real.per_address));
    assert_eq!(shown.enroll_per_second, Some(real.enroll_per_second));
    assert_eq!(shown.enroll_burst, Some(real.enroll_burst));
    assert_eq!(shown.rejoin_per_second, Some(real.rejoin_per_second));
    assert_eq!(shown.hello_per_second, Some(real.hello_per_second));
    assert_eq!(shown.http_connections.map(|n| n as usize), Some(http::DEFAULT_CONNECTIONS));
    assert_eq!(full.upkeep, quiet.upkeep);
    let jobs = ["mark_inactive", "archive", "purge", "ephemeral", "retention"].map(|job| format!("[jobs.{job}]\n"));
    let tables = ["", "[limits]\n", "[log]\n", "[metrics]\n", "[retention]\n", "[maintenance]\n"].map(str::to_owned);
    for table in tables.into_iter().chain(jobs) {
        let complaint = load(format!("{table}nonsense = 1")).expect_err("unknown").to_string();
        for key in known_by(&complaint, &[]) {
            let forms = [format!("#{key} = "), format!("#[{key}]"), format!("#[[{key}]]")];
            assert!(forms.iter().any(|form| text.contains(form)), "{key} is not shown");
        }
    }
}

/// What a unit starts, as words.
fn started_by(unit: &str) -> Vec<String> {
    let text = shipped(&format!("systemd/{unit}"));
    let line = text.lines().find_map(|line| line.strip_prefix("ExecStart=")).expect("a command");
    line.split_whitespace().map(Into::into).collect()
}

#[test]
fn the_units_start_what_exists() {
    use clap::Parser as _;
    let words = started_by("rollcall-agent.service");
    assert!(rollcall_agent::cli::Cli::try_parse_from(&words).is_ok(), "{words:?}");
    assert!(words.contains(&agent::MAIN_FILE.to_owned()), "{words:?}");
    let words: Vec<String> =
        started_by("rollcall-agent@.service").iter().map(|word| word.replace("%i", "blue")).collect();
    assert!(rollcall_agent::cli::Cli::try_parse_from(&words).is_ok(), "{words:?}");
    let words = started_by("rollcall-collector.service");
    assert!(words.contains(&collector::DEFAULT_FILE.to_owned()), "{words:?}");
    // A restart is no cure for what the programs answer with 78, and both notify.
    for unit in ["rollcall-agent.service", "rollcall-agent@.service", "rollcall-collector.service"] {
        let text = shipped(&format!("systemd/{unit}"));
        for line in ["Type=notify", "RestartPreventExitStatus=78", "UMask=0077", "StateDirectoryMode=0700"] {
            assert!(text.lines().any(|have| have == line), "{unit} lacks {line}");
        }
    }
}

/// A file of `systemd/` as lines of meaning.
fn meaning(unit: &str) -> Vec<String> {
    shipped(&format!("systemd/{unit}")).lines().filter(|line| !line.starts_with('#')).map(Into::into).collect()
}

/// The units and the programs, which meet by names alone.
#[test]
fn the_units_and_the_programs_name_the_same_places() {
    let dir_of = |path: &Path| path.parent().expect("a parent").to_owned();
    let main = meaning("rollcall-agent.service");
    let says = |unit: &[String], line: String| assert!(unit.contains(&line), "no line {line}");
    let base = |path: &str| Path::new(path).file_name().expect("a name").to_string_lossy().into_owned();
    says(&main, format!("StateDirectory={}", base(agent::STATE_DIR)));
    says(&main, format!("RuntimeDirectory={}", base(&dir_of(Path::new(agent::RUNTIME_SOCKET)).to_string_lossy())));
    says(&main, format!("LoadCredential=token:{}", agent::TOKEN_FILE));
    says(&meaning("rollcall-agent-token.path"), format!("PathChanged={}", agent::TOKEN_FILE));
    let blue: agent::Instance = "blue".parse().expect("a name");
    let of_blue = |unit: &str| meaning(unit).iter().map(|line| line.replace("%i", "blue")).collect::<Vec<_>>();
    let unit = of_blue("rollcall-agent@.service");
    says(&unit, format!("StateDirectory={}", base(&blue.state_dir().to_string_lossy())));
    says(&unit, format!("RuntimeDirectory={}", base(&dir_of(&blue.socket()).to_string_lossy())));
    says(&unit, format!("LoadCredential=token:{}", blue.token_file().display()));
    says(&of_blue("rollcall-agent-token@.path"), format!("PathChanged={}", blue.token_file().display()));
    let collector = meaning("rollcall-collector.service");
    says(&collector, format!("StateDirectory={}", base(collector::DEFAULT_STATE_DIR)));
    let buffers = shipped("sysctl.d/10-rollcall-collector.conf");
    for key in ["net.core.rmem_max", "net.core.wmem_max"] {
        let line = format!("{key} = {}", ingest::endpoint::SOCKET_BUFFER);
        assert!(buffers.lines().any(|have| have == line), "no line {line}");
    }
}

/// One sandbox for both, so that nobody hardens one and forgets the other.
#[test]
fn an_instance_differs_by_its_names_alone() {
    for (single, template) in [
        ("rollcall-agent.service", "rollcall-agent@.service"),
        ("rollcall-agent-token.path", "rollcall-agent-token@.path"),
        ("rollcall-agent-token.service", "rollcall-agent-token@.service"),
    ] {
        let (single, template) = (meaning(single), meaning(template));
        assert_eq!(single.len(), template.len(), "{template:?}");
        for (one, other) in single.iter().zip(&template) {
            let names = ["%i", "--instance"].iter().any(|name| other.contains(name));
            assert!(one == other || names, "{one:?} and {other:?}");
        }
    }
}

#[test]
fn the_small_configurations_set_nothing() {
    for name in ["etc/agent.toml", "etc/collector.toml", "etc/agent.default", "etc/collector.default"] {
        let text = shipped(name);
        assert!(text.lines().all(|line| line.starts_with('#')), "{name} sets something");
        assert!(text.lines().count() < 6, "{name}: what upgrades would ask about is kept small");
    }
    let load = |text| agent::Config::load(&OneFile(text), Some(Path::new(AT)), agent::Layer::default());
    assert!(load(in_full(&shipped("etc/agent.toml"))).is_ok());
}

fn is_script(text: &[u8]) -> bool {
    text.starts_with(b"#!") || text.starts_with(b"# shellcheck shell=")
}

#[test]
fn the_scripts_are_sound() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging");
    let mut scripts: Vec<PathBuf> = ["deb/agent", "deb/collector", "libexec", "boot", "."]
        .iter()
        .flat_map(|dir| fs::read_dir(root.join(dir)).expect("a folder"))
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.is_file() && fs::read(path).is_ok_and(|text| is_script(&text)))
        .collect();
    scripts.sort();
    assert!(scripts.len() > 9, "{scripts:?}");
    let output = Command::new("shellcheck")
        .args(["--severity=warning", "--external-sources"])
        .args(&scripts)
        .current_dir(root.join(".."))
        .output();
    let output = output.expect("shellcheck, which tests/setup.sh installs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

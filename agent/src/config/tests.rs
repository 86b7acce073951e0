//! Settings from sources that the tests bring.

use std::collections::BTreeMap;

use super::*;

#[derive(Default)]
struct Fake {
    files: BTreeMap<PathBuf, String>,
    variables: BTreeMap<String, String>,
    root: bool,
}

impl Fake {
    fn file(mut self, path: &str, text: &str) -> Self {
        self.files.insert(path.into(), text.into());
        self
    }

    fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.insert(name.into(), value.into());
        self
    }

    fn load(&self) -> Result<Config, String> {
        Config::load(self, None, Layer::default()).map_err(|problems| problems.to_string())
    }
}

impl Source for Fake {
    fn text(&self, path: &Path) -> io::Result<Option<String>> {
        Ok(self.files.get(path).cloned())
    }

    fn files(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(self.files.keys().rev().filter(|path| path.parent() == Some(dir)).cloned().collect())
    }

    fn variable(&self, name: &str) -> Option<String> {
        self.variables.get(name).cloned()
    }

    fn is_root(&self) -> bool {
        self.root
    }
}

#[test]
fn an_empty_host_has_the_documented_defaults() {
    let config = Fake::default().load().unwrap();
    assert_eq!(config.state_dir, Path::new("/var/lib/rollcall-agent"));
    assert_eq!(config.socket, Path::new("/var/lib/rollcall-agent/agent.sock"));
    assert_eq!(config.token.file, Path::new("/etc/rollcall/agent/token"));
    assert_eq!(config.revoked_retry, Duration::from_secs(3600));
    assert_eq!(config.log, Log { format: LogFormat::Text, level: LogLevel::Info });
    assert!(config.kind.is_none() && config.addresses.is_empty() && !config.token.consume_file);
}

#[test]
fn later_sources_win() {
    let fake = Fake::default()
        .file(
            MAIN_FILE,
            "kind = \"poller\"\nid = \"main\"\n[labels]\nsite = \"a\"\nrack = \"1\"\n[log]\nlevel = \"debug\"",
        )
        .file("/etc/rollcall/agent.d/10-x.toml", "id = \"ten\"\n[labels]\nsite = \"b\"")
        .file("/etc/rollcall/agent.d/20-x.toml", "id = \"twenty\"")
        .file("/etc/rollcall/agent.d/ignored.txt", "nonsense")
        .variable("ROLLCALL_ADDRESSES", "a:1, [::1]:2")
        .variable("ROLLCALL_LOG_FORMAT", "json")
        .variable("ROLLCALL_KIND", "");
    let config = fake.load().unwrap();
    assert_eq!(config.id.unwrap().as_str(), "twenty");
    assert_eq!(config.labels.get("site"), Some("b"));
    assert_eq!(config.labels.get("rack"), Some("1"));
    assert_eq!(config.kind, Some(Kind::Poller));
    assert_eq!(config.addresses.len(), 2);
    assert_eq!(config.log, Log { format: LogFormat::Json, level: LogLevel::Debug });

    let fake = fake.variable("ROLLCALL_ID", "env");
    assert_eq!(fake.load().unwrap().id.unwrap().as_str(), "env");
    let flags = Layer { id: "flag".parse().ok(), ..Layer::default() };
    assert_eq!(Config::load(&fake, None, flags).unwrap().id.unwrap().as_str(), "flag");
}

#[test]
fn an_instance_has_files_of_its_own() {
    let host = Fake::default().file("/etc/rollcall/agent.toml", "kind = \"poller\"");
    let flags = || Layer { instance: "blue".parse().ok(), ..Layer::default() };
    let missing = Config::load(&host, None, flags()).unwrap_err().to_string();
    assert_eq!(missing, "/etc/rollcall/agent/blue.toml: there is no such file");
    let mut host = host
        .file("/etc/rollcall/agent/blue.toml", "kind = \"agent\"")
        .file("/etc/rollcall/agent/blue.d/a.toml", "id = \"edge\"");
    let config = Config::load(&host, None, flags()).unwrap();
    assert_eq!(config.kind, Some(Kind::Agent));
    assert_eq!(config.id.unwrap().as_str(), "edge");
    assert_eq!(config.token.file, Path::new("/etc/rollcall/agent/blue.token"));
    assert_eq!(config.state_dir, Path::new("/var/lib/rollcall-agent@blue"));
    assert_eq!(config.socket, Path::new("/var/lib/rollcall-agent@blue/agent.sock"));
    assert_eq!(config.packaged_socket, Path::new("/run/rollcall-agent@blue/agent.sock"));
    host.root = true;
    assert_eq!(Config::load(&host, None, flags()).unwrap().socket, config.packaged_socket);
    for bad in ["", "../x", "a/b", ".a", "a b", "-a"] {
        assert!(bad.parse::<Instance>().is_err(), "{bad}");
    }
}

#[test]
fn systemd_gives_the_directories() {
    let fake = Fake::default()
        .variable("STATE_DIRECTORY", "/var/lib/rollcall-agent/blue:/other")
        .variable("RUNTIME_DIRECTORY", "/run/rollcall-agent-blue")
        .variable("CREDENTIALS_DIRECTORY", "/run/credentials/x");
    let config = fake.load().unwrap();
    assert_eq!(config.state_dir, Path::new("/var/lib/rollcall-agent/blue"));
    assert_eq!(config.socket, Path::new("/run/rollcall-agent-blue/agent.sock"));
    assert_eq!(config.token.credential.unwrap(), Path::new("/run/credentials/x/token"));

    let root = Fake { root: true, ..Fake::default() };
    assert_eq!(root.load().unwrap().socket, Path::new(RUNTIME_SOCKET));
    let root = root.variable("ROLLCALL_STATE_DIR", "/tmp/x");
    assert_eq!(root.load().unwrap().socket, Path::new("/tmp/x/agent.sock"));
}

#[test]
fn errors_name_file_line_and_key() {
    let wrong = |text: &str| Fake::default().file(MAIN_FILE, text).load().unwrap_err();
    let cases = [
        ("kind = \"poller\"\nid = \"-x\"", "/etc/rollcall/agent.toml:2: id: id \"-x\" is invalid: use 1 to 64"),
        ("\n\nkin = \"poller\"", "/etc/rollcall/agent.toml:3: kin: unknown field `kin`, expected one of `kind`"),
        ("kind = \"robot\"", "/etc/rollcall/agent.toml:1: kind: unknown variant `robot`"),
        ("[log]\nlevel = \"loud\"", "/etc/rollcall/agent.toml:2: level: unknown variant `loud`"),
        ("[log]\ncolour = true", "/etc/rollcall/agent.toml:2: colour: unknown field `colour`"),
        ("addresses = [\"a:1\", \"b:x\"]", "/etc/rollcall/agent.toml:1: addresses: address \"b:x\" is invalid"),
        ("revoked_retry = \"soon\"", "/etc/rollcall/agent.toml:1: revoked_retry: \"soon\" is no length of time"),
        ("consume_token_file = 3", "/etc/rollcall/agent.toml:1: consume_token_file: invalid type"),
        ("id = \"x", "/etc/rollcall/agent.toml:1: id: "),
        ("kind = \"poller\"\nkind = \"agent\"", "/etc/rollcall/agent.toml:2: kind: duplicate key"),
    ];
    for (text, start) in cases {
        let error = wrong(text);
        assert!(error.starts_with(start), "{text:?} gave {error:?}");
        assert!(!error.contains('\n'), "one line each: {error:?}");
    }
}

#[test]
fn every_problem_is_told_at_once() {
    let fake = Fake::default()
        .file(MAIN_FILE, "kin = 1")
        .file("/etc/rollcall/agent.d/x.toml", "id = \"X\"")
        .variable("ROLLCALL_PARENT", "a/b")
        .variable("ROLLCALL_LOG_LEVEL", "loud");
    let problems = Config::load(&fake, None, Layer::default()).unwrap_err();
    assert_eq!(problems.0.len(), 4, "{problems}");
    assert!(problems.to_string().contains("environment variable ROLLCALL_PARENT: id \"a/b\" is invalid"));
    assert!(problems.to_string().contains("environment variable ROLLCALL_LOG_LEVEL: \"loud\" is unknown: use error"));
}

#[test]
fn contradictions_are_refused_with_the_fix() {
    for (text, part) in [
        ("kind = \"poller\"\nparent = \"x\"", "parent: a poller has no parent"),
        ("kind = \"agent\"\nchecker_kind = \"snmp\"", "checker_kind: only a checker has one"),
        ("addresses = []", "addresses: the list is empty"),
        ("revoked_retry = \"0s\"", "revoked_retry: give a time between"),
        ("[labels]\nSite = \"x\"", "labels: key \"Site\" is invalid"),
        ("state_dir = \"\"", "state_dir: the path is empty"),
    ] {
        let error = Fake::default().file(MAIN_FILE, text).load().unwrap_err();
        assert!(error.contains(part), "{text:?} gave {error:?}");
    }
}

#[test]
fn a_file_that_was_asked_for_must_be_there() {
    let asked = Config::load(&Fake::default(), Some(Path::new("/x/y.toml")), Layer::default()).unwrap_err();
    assert_eq!(asked.to_string(), "/x/y.toml: there is no such file");
    let asked = Fake::default().variable("ROLLCALL_CONFIG", "/x/z.toml").load().unwrap_err();
    assert_eq!(asked, "/x/z.toml: there is no such file");
}

#[test]
fn periods() {
    for (text, secs) in [("90s", 90), ("15m", 900), ("1h", 3_600), ("2d", 172_800)] {
        assert_eq!(text.parse(), Ok(Period(Duration::from_secs(secs))));
    }
    for bad in ["", "1", "h", "1.5h", "-1s", "1w", "99999999999999999999s", "18446744073709551615d", "1h "] {
        assert!(bad.parse::<Period>().is_err(), "{bad}");
    }
}

/// The packaged file is all comments; each setting that it shows reads.
#[test]
fn the_packaged_file_reads() {
    let shipped = include_str!("../../../packaging/config/agent.toml");
    assert!(toml::from_str::<Layer>(shipped).is_ok());
    let mut table = String::new();
    let mut read = 0;
    for line in shipped.lines().filter_map(|line| line.strip_prefix('#')) {
        if line.starts_with('[') {
            table = format!("{line}\n");
        } else if line.split_once(" = ").is_some_and(|(key, _)| !key.contains(' ')) {
            let alone = toml::from_str::<Layer>(line);
            let in_table = toml::from_str::<Layer>(&format!("{table}{line}"));
            assert!(alone.is_ok() || in_table.is_ok(), "{line}: {alone:?}");
            read += 1;
        }
    }
    assert!(read > 10, "{read} settings are too few to be all");
}

#[test]
fn the_packaged_defaults_are_the_defaults() {
    let shipped = include_str!("../../../packaging/config/agent.toml");
    for line in [
        format!("#state_dir = {STATE_DIR:?}"),
        format!("#token_file = {TOKEN_FILE:?}"),
        "#consume_token_file = false".to_owned(),
        "#revoked_retry = \"1h\"".to_owned(),
    ] {
        assert!(shipped.contains(&line), "{line}");
    }
}

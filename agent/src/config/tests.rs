//! Settings from sources that the tests bring.

use std::collections::BTreeMap;

use super::*;

#[derive(Default)]
struct Fake {
    files: BTreeMap<PathBuf, String>,
    variables: BTreeMap<String, String>,
    hostname: Option<String>,
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

    fn hostname(&self) -> Option<String> {
        self.hostname.clone()
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
fn a_service_calls_itself_as_it_is_told_to() {
    let at = |text: &str| Fake { hostname: Some("found".into()), ..Fake::default() }.file(MAIN_FILE, text);
    let host = |fake: Fake| fake.load().unwrap().metadata.get("host").map(str::to_owned);
    assert_eq!(host(at("")), None, "nobody asked");
    assert_eq!(host(at("port = 8000")).as_deref(), Some("found"));
    assert_eq!(host(at("port = 8000\nhost = \"set\"")).as_deref(), Some("set"));
    assert_eq!(host(at("host = \"set\"").variable("ROLLCALL_HOST", "env")).as_deref(), Some("env"));
    let nameless = Fake::default().file(MAIN_FILE, "port = 8000").load().unwrap_err();
    assert_eq!(nameless, "host: this host does not tell its name: set it, or leave `port` out");
    let all = "display_name = \"Edge 17\"\nversion = \"2.1\"\nsite = \"zrh\"\nenvironment = \"prod\"\n\
               deregister_on_stop = false\n[enrollment]\ntries = 5\nretry_delay = \"2s\"\nfail_on_error = true";
    let config = at(all).load().unwrap();
    let pairs = |pairs: &Pairs| pairs.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",");
    assert_eq!(pairs(&config.metadata), "display_name=Edge 17,version=2.1");
    assert_eq!(pairs(&config.labels), "environment=prod,site=zrh");
    let enrollment = Enrollment { tries: Some(5), retry_delay: Some(Duration::from_secs(2)), fail_on_error: true };
    assert_eq!((config.deregister_on_stop, config.enrollment), (false, enrollment));
    for (text, part) in [
        ("port = 0", "port: give a number"),
        ("version = \"1\"\n[metadata]\nversion = \"2\"", "version: \"1\" is given, and \"2\" as `version` of metadata"),
        ("[enrollment]\ntries = 0", "enrollment.tries: give at least 1"),
        ("[enrollment]\nfail_on_error = true", "enrollment.fail_on_error: say with `tries`"),
        ("[enrollment]\nretry_delay = \"1ms\"", "enrollment.retry_delay: give a time between"),
    ] {
        let error = at(text).load().unwrap_err();
        assert!(error.contains(part), "{text:?} gave {error:?}");
    }
}

#[test]
fn probes_and_children_of_all_files_stand_side_by_side() {
    let fake = Fake::default()
        .file(MAIN_FILE, "kind = \"agent\"\n[[probe]]\ntype = \"tcp\"\naddress = \"localhost:80\"\n")
        .file(
            "/etc/rollcall/agent.d/db.toml",
            "[[probe]]\nname = \"db\"\ntype = \"exec\"\ncommand = [\"/bin/true\"]\ninterval = \"30s\"\ntimeout = \"500ms\"\n\
             rise = 1\nfall = 2\nstart_grace = \"1m\"\nworst = \"degraded\"\n",
        )
        .file(
            "/etc/rollcall/agent.d/ping.toml",
            "[[child]]\nkind = \"checker\"\nid = \"ping\"\nversion = \"3\"\nlabels = { site = \"x\" }\n\
             [[child.probe]]\ntype = \"process\"\nprocess = \"pinger\"\n[[child.probe]]\ntype = \"systemd\"\nunit = \"ping.service\"\n\
             [[child]]\nkind = \"checker\"\nid = \"dull\"\nassume_alive = true\n",
        );
    let config = fake.load().unwrap();
    let shown: Vec<_> = config.probes.iter().map(|probe| format!("{}: {}", probe.name.as_str(), probe.check)).collect();
    assert_eq!(shown, ["tcp: connect to localhost:80", "db: run /bin/true"]);
    let db = &config.probes[1];
    assert_eq!((db.interval, db.timeout), (Duration::from_secs(30), Duration::from_millis(500)));
    assert_eq!((db.rules.rise, db.rules.fall, db.rules.grace), (1, 2, Duration::from_secs(60)));
    let [ping, dull] = &config.children[..] else { panic!("{:?}", config.children) };
    assert_eq!((ping.key.to_string().as_str(), ping.probes.len()), ("checker/ping", 2));
    assert_eq!(ping.about.metadata.get("version"), Some("3"));
    assert!(dull.assume_alive && dull.probes.is_empty());
    assert_eq!(config.children_interval, Duration::from_secs(10));
}

#[test]
fn a_wrong_probe_is_told_with_file_table_and_key() {
    let wrong = |text: &str| Fake::default().file(MAIN_FILE, text).load().unwrap_err();
    let tcp = "[[probe]]\ntype = \"tcp\"\naddress = \"localhost:80\"\n";
    for (text, start) in [
        ("[[probe]]\ntype = \"tcp\"\naddress = \"x\"", ":3: [[probe]]: address: \"x\" is no address: write host:port"),
        ("\n[[probe]]\ntype = \"tcp\"", ":2: [[probe]]: address: a probe of type tcp needs it"),
        (
            "[[probe]]\nname = \"a\"\ntype = \"tcp\"\nurl = \"x\"",
            ":4: [[probe]] \"a\": url: belongs to type http or grpc, not to tcp",
        ),
        ("[[probe]]\ntype = \"ping\"", ":2: type: unknown variant `ping`"),
        ("[[probe]]\ntype = \"tcp\"\ncolour = 1", ":3: colour: unknown field `colour`"),
        (
            "[[probe]]\ntype = \"exec\"\ncommand = [\"ls -l\"]",
            ":3: [[probe]]: command: is a list that begins with the program's whole path",
        ),
        (
            "[[probe]]\ntype = \"http\"\nurl = \"localhost\"",
            ":3: [[probe]]: url: \"localhost\" is no address of a page",
        ),
        (
            "[[probe]]\ntype = \"http\"\nurl = \"http://x\"\nstatus = [99]",
            ":4: [[probe]]: status: give numbers from 100",
        ),
        ("[[probe]]\ntype = \"http\"\nurl = \"http://x\"\nverify = false", ":4: [[probe]]: verify: belongs to https"),
        ("[[probe]]\ntype = \"systemd\"\nunit = \"nginx\"", ":3: [[probe]]: unit: \"nginx\" is no unit"),
        ("[[probe]]\ntype = \"process\"", ":1: [[probe]]: a probe of type process needs `pid_file`"),
        ("[[probe]]\ntype = \"process\"\ncgroup = \"../x\"", ":3: [[probe]]: cgroup: write its path"),
        ("[[probe]]\ntype = \"progress\"\nfile = \"x\"\nwithin = \"5m\"", ":3: [[probe]]: file: is not a whole path"),
        (&format!("{tcp}interval = \"10ms\""), ":4: [[probe]]: interval: give a time between 1s and 1h"),
        (
            &format!("{tcp}timeout = \"20s\""),
            ":4: [[probe]]: timeout: a look of 20s does not fit into an interval of 10s",
        ),
        (&format!("{tcp}rise = 0"), ":4: [[probe]]: rise: give a count between 1 and 100"),
        (&format!("{tcp}{tcp}"), ":4: [[probe]]: name: there are two named \"tcp\""),
        ("[[child]]\nkind = \"checker\"\nid = \"c\"", ":1: [[child]] checker/c: it has no probe"),
        (
            "[[child]]\nkind = \"agent\"\nid = \"c\"\nassume_alive = true\nchecker_kind = \"x\"",
            ":5: [[child]] agent/c: checker_kind: only a checker",
        ),
        (
            "[[child]]\nkind = \"checker\"\nid = \"c\"\n[[child.probe]]\ntype = \"tcp\"",
            ":4: [[child.probe]]: address: a probe of type tcp needs it",
        ),
    ] {
        let error = wrong(text);
        assert!(error.starts_with(&format!("{MAIN_FILE}{start}")), "{text:?} gave {error:?}");
    }
    let both = Fake::default().file(MAIN_FILE, tcp).file("/etc/rollcall/agent.d/x.toml", tcp).load().unwrap_err();
    assert!(
        both.starts_with("[[probe]] \"tcp\" is in /etc/rollcall/agent.toml and in /etc/rollcall/agent.d/x.toml"),
        "{both}"
    );
    let child = "[[child]]\nkind = \"checker\"\nid = \"c\"\nassume_alive = true\n";
    for (own, part) in [("checker", "does not stand below this checker"), ("poller", "parent: name the agent")] {
        let error = wrong(&format!("kind = {own:?}\n{child}"));
        assert!(error.contains(part), "{own}: {error}");
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

/// What is shown as an example is accepted as it stands, and shows every type and key.
#[test]
fn the_packaged_examples_read() {
    let probes = include_str!("../../../packaging/config/examples/probes.toml");
    let children = include_str!("../../../packaging/config/examples/children.toml");
    let fake = Fake::default()
        .file(MAIN_FILE, "kind = \"agent\"")
        .file("/etc/rollcall/agent.d/probes.toml", probes)
        .file("/etc/rollcall/agent.d/children.toml", children);
    let config = fake.load().unwrap();
    assert_eq!((config.probes.len(), config.children.len()), (9, 3));
    let mut words: Vec<_> = config.probes.iter().map(|probe| probe.check.word()).collect();
    words.sort_unstable();
    words.dedup();
    assert_eq!(words, ["exec", "grpc", "http", "process", "progress", "systemd", "tcp"]);
    // The one that shows the defaults means them.
    let plain = "[[probe]]\nname = \"all\"\ntype = \"tcp\"\naddress = \"localhost:80\"\n";
    let plain = Fake::default().file(MAIN_FILE, plain).load().unwrap();
    assert_eq!(config.probes.last(), plain.probes.last());
}

#[test]
fn the_packaged_defaults_are_the_defaults() {
    let shipped = include_str!("../../../packaging/config/agent.toml");
    for line in [
        format!("#state_dir = {STATE_DIR:?}"),
        format!("#token_file = {TOKEN_FILE:?}"),
        "#consume_token_file = false".to_owned(),
        "#transport = \"auto\"".to_owned(),
        "#revoked_retry = \"1h\"".to_owned(),
    ] {
        assert!(shipped.contains(&line), "{line}");
    }
}

/// The table of what a collector may change, from two files, and what is wrong with it.
#[test]
fn what_a_collector_may_tune_is_nothing_unless_it_is_named() {
    let probe = |name: &str| format!("[[probe]]\nname = \"{name}\"\ntype = \"tcp\"\naddress = \"a:1\"\n");
    let config = Fake::default().file(MAIN_FILE, &probe("port")).load().unwrap();
    assert_eq!(config.remote, Remote::default());
    assert!(config.remote.probes.is_empty());
    let fake = Fake::default()
        .file(MAIN_FILE, &format!("[remote]\nprobes = [\"port\", \"gone\"]\nmin_interval = \"20s\"\n{}", probe("port")))
        .file(
            "/etc/rollcall/agent.d/deep.toml",
            &format!("[remote]\nprobes = [\"deep\"]\n{}standby = true\n", probe("deep")),
        );
    let config = fake.load().unwrap();
    assert_eq!(config.remote.probes.len(), 3);
    assert_eq!(
        (config.remote.min_interval, config.remote.min_exec_interval),
        (Duration::from_secs(20), Duration::from_secs(30))
    );
    assert_eq!(config.remarks(), ["remote.probes: there is no probe \"gone\" here"]);
    for (text, words) in [
        ("[remote]\nprobes = [\"/bin/sh\"]".to_owned(), "agent.toml:2: probes: \"/bin/sh\" names no probe"),
        ("[remote]\nmin_interval = \"100ms\"".to_owned(), "remote.min_interval: give a time between 1s and 1h"),
        ("[remote]\nmax_timeout = \"61s\"".to_owned(), "remote.max_timeout: give a time between 50ms and 60s"),
        ("[remote]\ncommands = true".to_owned(), "agent.toml:2: commands: unknown field"),
        (
            format!("{}standby = true\n", probe("deep")),
            "standby: deep rests until the collector asks for it, which it may not",
        ),
    ] {
        let error = Fake::default().file(MAIN_FILE, &text).load().unwrap_err();
        assert!(error.contains(words), "{error}");
    }
}

mod reading_again {
    use proptest::prelude::*;

    use super::*;

    /// A file that says some of everything.
    fn text() -> impl Strategy<Value = String> {
        let line = |text: &'static str| proptest::option::of(Just(text));
        let two = |one: &'static str, other: &'static str| proptest::option::of(prop_oneof![Just(one), Just(other)]);
        let top = [
            two("state_dir = \"/a\"", "state_dir = \"/b\"").boxed(),
            two("socket = \"/a/s\"", "socket = \"/b/s\"").boxed(),
            line("bind_machine = false").boxed(),
            line("parent = \"p\"").boxed(),
            two("addresses = [\"a:1\"]", "addresses = [\"b:1\"]").boxed(),
            two("revoked_retry = \"2h\"", "revoked_retry = \"3h\"").boxed(),
            line("deregister_on_stop = false").boxed(),
            line("children_interval = \"20s\"").boxed(),
            line("version = \"2\"").boxed(),
            line("[local]\nhttp = \"127.0.0.1:1\"\nhttp_reports = true").boxed(),
            two("[log]\nlevel = \"debug\"", "[log]\nformat = \"json\"").boxed(),
            line("[remote]\nprobes = [\"*\"]").boxed(),
            line("[labels]\ntier = \"1\"").boxed(),
            two(
                "[[probe]]\ntype = \"tcp\"\naddress = \"a:1\"",
                "[[probe]]\ntype = \"tcp\"\naddress = \"a:2\"\ninterval = \"1m\"",
            )
            .boxed(),
            line("[[child]]\nkind = \"checker\"\nid = \"c\"\nassume_alive = true").boxed(),
        ];
        top.to_vec().prop_map(|lines| lines.into_iter().flatten().collect::<Vec<_>>().join("\n") + "\n")
    }

    fn load(text: &str) -> Config {
        Fake::default().file(MAIN_FILE, &format!("kind = \"agent\"\n{text}")).load().unwrap()
    }

    proptest! {
        /// Whatever ran before: it is as if it had started with the file, but for what is named.
        #[test]
        fn following_is_starting_but_for_what_is_named(first in text(), second in text(), enrolled: bool) {
            let (running, fresh) = (load(&first), load(&second));
            let followed = follow(&running, load(&second), enrolled);
            let mut config = followed.config.clone();
            let named = |key: &str| followed.needs_restart.contains(&key);
            prop_assert_eq!(named("state_dir"), running.state_dir != fresh.state_dir);
            prop_assert_eq!(named("socket"), running.socket != fresh.socket);
            prop_assert_eq!(named("local.http"), running.local.http != fresh.local.http);
            prop_assert_eq!(named("log.format"), running.log.format != fresh.log.format);
            prop_assert_eq!((&config.state_dir, &config.socket), (&running.state_dir, &running.socket));
            prop_assert_eq!(followed.told_once.contains(&"parent"), enrolled && running.parent != fresh.parent);
            config.state_dir.clone_from(&fresh.state_dir);
            config.socket.clone_from(&fresh.socket);
            config.packaged_socket.clone_from(&fresh.packaged_socket);
            config.local.http = fresh.local.http;
            config.bind_machine = fresh.bind_machine;
            config.log.format = fresh.log.format;
            prop_assert_eq!(format!("{config:?}"), format!("{fresh:?}"));
            // Put back, nothing is named any more.
            let back = follow(&followed.config, load(&first), true);
            prop_assert!(back.needs_restart.is_empty(), "{:?}", back.needs_restart);
        }
    }
}

//! Settings from invented files, variables and flags.

use std::{collections::BTreeMap, ffi::OsString, io};

use super::*;

#[derive(Debug, Default)]
struct World {
    files: BTreeMap<PathBuf, String>,
    variables: BTreeMap<String, OsString>,
}

impl World {
    fn file(mut self, path: &str, text: &str) -> Self {
        self.files.insert(path.into(), text.into());
        self
    }

    fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.insert(name.into(), value.into());
        self
    }

    fn load(&self) -> Result<Config, String> {
        Config::load(self, &Flags::default()).map_err(|errors| errors.to_string())
    }

    fn refused(&self) -> String {
        self.load().map(|config| format!("accepted: {config:?}")).unwrap_err()
    }
}

impl Source for World {
    fn file(&self, path: &Path) -> io::Result<String> {
        self.files.get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn files_in(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(self.files.keys().filter(|path| path.parent() == Some(dir)).cloned().collect())
    }

    fn variable(&self, name: &str) -> Option<OsString> {
        self.variables.get(name).cloned()
    }
}

fn toml(text: &str) -> World {
    World::default().file(DEFAULT_FILE, text)
}

#[test]
fn nothing_said_gives_the_documented_defaults() {
    let config = World::default().file(HOST_NAME, "Big_Host.example.net\n").load().unwrap();
    assert_eq!(config.state_dir, Path::new("/var/lib/rollcall-collector"));
    assert_eq!(config.name.as_str(), "big-host");
    assert_eq!(config.trust_domain.as_str(), "rollcall.local");
    assert_eq!(config.quic_listen.to_string(), "[::]:7411");
    assert_eq!(config.http_listen.to_string(), "127.0.0.1:7410");
    assert!(config.advertise.is_empty() && config.metrics == Extra::default());
    assert_eq!((config.pace.interval_ms, config.pace.ttl_ms), (10_000, 30_000));
    assert_eq!(config.leaf_ttl, Duration::from_secs(7 * 86_400));
    assert!(matches!(config.liveness, Liveness::Memory));
    assert_eq!(config.registry, RegistryAt::Sqlite("/var/lib/rollcall-collector/registry.db".into()));
    assert_eq!(config.limits, Limits::default());
    assert_eq!(World::default().load().unwrap().name.as_str(), "collector", "a nameless host");
    let upkeep = &config.upkeep;
    let days = |n: u64| Duration::from_secs(n * 86_400);
    assert_eq!((upkeep.purge.schedule.as_str(), upkeep.purge.cap, upkeep.purge.enabled), ("0 2 * * *", 10_000, true));
    assert_eq!((upkeep.mark_inactive.schedule.as_str(), upkeep.inactive_after), ("*/5 * * * *", days(1)));
    assert!(!upkeep.archive.enabled, "off unless somebody wants it");
    let keep = &upkeep.keep;
    assert_eq!((keep.pending, keep.inactive, keep.revoked, keep.deleted), (days(30), days(90), days(90), days(7)));
    assert_eq!((keep.history, upkeep.longest_window), (days(90), days(30)));
}

#[test]
fn the_last_one_that_speaks_wins() {
    let world = toml("interval = '1s'\nttl = '3s'\nname = 'file'\ntrust_domain = 'a'\n")
        .file("/etc/rollcall/collector.d/10-site.toml", "name = 'first'\ntrust_domain = 'b'\n")
        .file("/etc/rollcall/collector.d/20-site.toml", "name = 'second'\n[limits]\nhandshakes = 7\n")
        .variable("ROLLCALL_TRUST_DOMAIN", "c")
        .variable("ROLLCALL_TTL", "5s")
        .variable("ROLLCALL_LIMITS_ENROLL_BURST", "9")
        .variable("ROLLCALL_API", "http://elsewhere");
    let flags = Flags { file: None, values: vec![("ttl", "6s".into())] };
    let config = Config::load(&world, &flags).unwrap();
    assert_eq!(config.name.as_str(), "second");
    assert_eq!(config.trust_domain.as_str(), "c");
    assert_eq!((config.pace.interval_ms, config.pace.ttl_ms), (1_000, 6_000));
    assert_eq!((config.limits.handshakes, config.limits.enroll_burst), (Some(7), Some(9)));
}

#[test]
fn errors_name_who_said_it_and_the_key_and_come_all_at_once() {
    let world = toml("\ninterval = '10x'\ncolour = 1\n[limits]\nhandshakes = 0\nspeed = 3\n");
    assert!(world.refused().contains("/etc/rollcall/collector.toml:3: colour: unknown key; known are advertise, "));
    assert!(
        world.refused().contains("/etc/rollcall/collector.toml:6: limits.speed: unknown key; known are enroll_burst")
    );

    let text = toml("\ninterval = '10x'\n[limits]\nhandshakes = 0\n").variable("ROLLCALL_LOG_FORMAT", "xml").refused();
    assert_eq!(text.lines().count(), 3, "{text}");
    assert!(text.contains("/etc/rollcall/collector.toml:2: interval: \"10x\" is no duration"), "{text}");
    assert!(text.contains("/etc/rollcall/collector.toml:4: limits.handshakes: must be a whole number"), "{text}");
    assert!(text.contains("environment ROLLCALL_LOG_FORMAT: log.format: must be \"text\" or \"json\""), "{text}");

    let flags = Flags { file: None, values: vec![("http_listen", "0.0.0.0:7410".into())] };
    let text = Config::load(&World::default(), &flags).unwrap_err().to_string();
    assert!(text.starts_with("flag --http-listen: http_listen: 0.0.0.0:7410 would send credentials"), "{text}");
}

#[test]
fn broken_files_are_named_with_their_line() {
    let text = toml("name = 'a'\nttl = = 3\n").refused();
    assert!(text.starts_with("/etc/rollcall/collector.toml:2: "), "{text}");
    let flags = Flags { file: Some("/etc/mine.toml".into()), values: Vec::new() };
    let text = Config::load(&World::default(), &flags).unwrap_err().to_string();
    assert!(text.starts_with("/etc/mine.toml: cannot be read"), "{text}");
    let text = World::default().variable("ROLLCALL_CONFIG", "/etc/theirs.toml").refused();
    assert!(text.starts_with("/etc/theirs.toml: cannot be read"), "{text}");
}

#[test]
fn each_key_refuses_what_breaks_its_rule() {
    for (line, expected) in [
        ("name = 'Big Host'", "collector name \"Big Host\" is invalid"),
        ("name = 7", "must be a text in quotes"),
        ("trust_domain = ''", "trust domain"),
        ("quic_listen = 'localhost'", "is no address to listen on"),
        ("http_listen = '[::]:7410'", "unencrypted"),
        ("http_tls_cert = '/a'", "set http_tls_key as well"),
        ("http_tls_key = '/a'", "set http_tls_cert as well"),
        ("http_tls_cert = 'a'\nhttp_tls_key = '/a'", "http_tls_cert: must be an absolute path"),
        ("http_hosts = ['https://x']", "is no host name"),
        ("advertise = ['0.0.0.0:7411']", "can be listened on but not dialed"),
        ("advertise = ['a', 'b', 'c', 'd', 'e']", "a token carries at most 4"),
        ("advertise = [1]", "must be a text, a whole number"),
        ("interval = '10ms'", "the interval must lie between"),
        ("interval = '20s'", "set ttl as well"),
        ("interval = '20s'\nttl = '30s'", "ttl: the TTL must be at least three intervals (60000 ms)"),
        ("leaf_ttl = '1s'", "must lie between 10m and 30d"),
        ("liveness = 'disk'", "write \"memory\" or"),
        ("registry = 'postgres://x'", "names no registry store"),
        ("registry = 'sqlite://rel.db'", "must be an absolute path"),
        ("state_dir = 'here'", "must be an absolute path"),
        ("observe_mark = '1h'", "must lie between"),
        ("[metrics]\nservice_ages = 'maybe'", "must be true or false"),
        ("[metrics]\nservice_ages_most = 0", "must be a whole number"),
        ("log = 'debug'", "must be a table: write [log]"),
        ("log.level = '=='", "write error, warn, info"),
        ("ttl = 30.5", "must be a text, a whole number"),
        ("[jobs.purge]\nschedule = 'daily'", "is no schedule"),
        ("[jobs.purge]\nenabled = 'maybe'", "must be true or false"),
        ("[jobs.purge]\ncap = 0", "must be a whole number"),
        ("[jobs.purge]\njitter = '2h'", "must lie between 0s and 1h"),
        ("[jobs.bake]\nenabled = true", "jobs.bake: unknown key; known are archive, ephemeral, grace, mark_inactive"),
        ("[retention]\nhistory = '1s'", "must lie between 1h and 3650d"),
    ] {
        let text = toml(line).refused();
        assert!(text.contains(expected), "{line} gave {text}");
        assert!(text.starts_with("/etc/rollcall/collector.toml:"), "{line} gave {text}");
    }
}

#[test]
fn a_certificate_opens_every_address() {
    let pair = "http_listen = '0.0.0.0:7410'\nhttp_tls_cert = '/etc/web.pem'\nhttp_tls_key = '/run/cred/web.key'\n";
    let tls = toml(pair).load().unwrap().http_tls.unwrap();
    assert_eq!((tls.cert.as_path(), tls.keeper), (Path::new("/etc/web.pem"), Keeper::Operator));
    let tls = toml(pair).variable("CREDENTIALS_DIRECTORY", "/run/cred").load().unwrap().http_tls.unwrap();
    assert_eq!(tls.keeper, Keeper::ServiceManager, "a key that systemd hands over");
    for other in ["/run", "/run/cred/web.key", "run/cred", ""] {
        let tls = toml(pair).variable("CREDENTIALS_DIRECTORY", other).load().unwrap().http_tls.unwrap();
        assert_eq!(tls.keeper, Keeper::Operator, "{other:?}");
    }
    let half = toml("http_listen = '0.0.0.0:7410'\nhttp_tls_cert = '/etc/web.pem'\n").refused();
    assert_eq!(half.lines().count(), 1, "one complaint is enough: {half}");
}

#[test]
fn a_password_is_neither_shown_nor_repeated() {
    let world = toml("liveness = 'redis://user:hush/hush@cache:6379/0'\n");
    let config = world.load().unwrap();
    let shown = format!("{config:?}");
    assert!(shown.contains("redis://***@cache:6379/0") && !shown.contains("hush"), "{shown}");
    assert!(matches!(&config.liveness, Liveness::Redis(url) if url.expose().contains("hush")));
    for line in ["liveness = 'rediss://u:hush@cache'", "liveness = 'http://u:hush@cache'", "liveness = 'redis://u:hush"]
    {
        let text = toml(line).refused();
        assert!(!text.contains("hush"), "{text}");
    }
}

#[test]
fn systemd_names_the_state_directory() {
    let world = World::default().variable("STATE_DIRECTORY", "/var/lib/a:/var/lib/b");
    let config = world.load().unwrap();
    assert_eq!(config.state_dir, Path::new("/var/lib/a"));
    assert_eq!(config.registry, RegistryAt::Sqlite("/var/lib/a/registry.db".into()));
    assert_eq!(world.variable("ROLLCALL_STATE_DIR", "/srv/r").load().unwrap().state_dir, Path::new("/srv/r"));
}

#[test]
fn where_the_api_has_the_port_of_quic_it_keeps_it() {
    let shared = "quic_listen = '0.0.0.0:7410'\n";
    let config = toml(shared).load().unwrap();
    assert!(!config.tcp_fallback && !config.tcp_asked, "what worked before there was TCP works on");
    let asked = toml(&format!("{shared}tcp_fallback = true\n")).refused();
    assert!(asked.contains("tcp_fallback") && asked.contains("http_listen"), "{asked}");
    let none = toml(&format!("{shared}tcp_fallback = false\n")).load().unwrap();
    assert!(!none.tcp_fallback && none.tcp_asked);
    assert!(toml("quic_listen = '192.0.2.1:7410'\n").load().unwrap().tcp_fallback, "another address of the host");
}

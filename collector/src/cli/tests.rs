//! The command line without a collector.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex},
};

use clap::CommandFactory;

use super::*;
use crate::http::{self, fixture};

#[derive(Debug, Default)]
struct World {
    files: BTreeMap<PathBuf, String>,
    variables: BTreeMap<String, OsString>,
}

impl Source for World {
    fn file(&self, path: &Path) -> io::Result<String> {
        self.files.get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn files_in(&self, _: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(Vec::new())
    }

    fn variable(&self, name: &str) -> Option<OsString> {
        self.variables.get(name).cloned()
    }
}

fn parsed(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split_whitespace())
}

/// Output that a test can read.
#[derive(Clone, Default)]
struct Paper(Arc<Mutex<Vec<u8>>>);

impl Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn printed(line: &str, world: &World) -> Result<String, Failure> {
    let paper = Paper::default();
    run(parsed(line).unwrap().command, world, Screen::kept(Box::new(paper.clone())))?;
    let bytes = paper.0.lock().unwrap().clone();
    Ok(String::from_utf8(bytes).unwrap())
}

fn failure(line: &str, world: &World) -> Failure {
    printed(line, world).unwrap_err()
}

#[test]
fn the_commands_are_well_formed() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_is_understood() {
    for line in [
        "x serve --config /etc/c.toml --ttl 3s --interval 1s --advertise a:1,b:2",
        "x check",
        "x token create --kind agent --parent site-3 --id edge-1 --label a=b --cidr 192.0.2.0/24 --local",
        "x token create --kind checker --id-prefix c- --uses 3 --ttl 7d --rejoin-limit unlimited -o raw",
        "x tokens list --state usable --output json",
        "x services list --kind agents --presence lost,late --label site=3 -q x --max 5 --watch",
        "x services list --watch 5s",
        "x services --api http://127.0.0.1:1 --credential-file /f list",
        "x services list --api http://127.0.0.1:1 --credential-file /f",
        "x services show agent/edge-17",
        "x services show edge-17",
        "x services tree poller/p",
        "x services history agent/a --superseded --limit 10",
        "x services register checker/c --parent a --checker-kind snmp --metadata rack=b7",
        "x services revoke agent/a --reason gone",
        "x services remove a",
        "x audit --object agent/a --action service.revoked --max 5",
        "x stats -o json",
    ] {
        if let Err(error) = parsed(line) {
            panic!("{line}: {error}");
        }
    }
}

#[test]
fn nonsense_ends_with_64_and_help_with_0() {
    let world = World::default();
    let exit = |line: &str| match start(line.split_whitespace().map(OsString::from), &world) {
        Start::Done(exit) => exit,
        Start::Serve(_) => panic!("{line} would serve"),
    };
    for line in [
        "x",
        "x dance",
        "x token create",
        "x token create --kind robot",
        "x token create --kind agent --id a --id-prefix b",
        "x token create --kind agent --ttl soon",
        "x token show short",
        "x services show A/B",
        "x services list --watch 1ms",
        "x services list --max 0",
        "x services register agent",
    ] {
        assert_eq!(exit(line), Exit::Usage, "{line}");
    }
    assert_eq!(exit("x --help"), Exit::Well);
    assert_eq!(exit("x --version"), Exit::Well);
    assert_eq!(exit("x services list --help"), Exit::Well);
}

#[test]
fn serve_hands_back_a_checked_configuration() {
    let line = "x serve --name c1 --interval 1s --ttl 3s --log-format json --http-listen 127.0.0.1:0";
    match run(parsed(line).unwrap().command, &World::default(), Screen::kept(Box::new(io::sink()))) {
        Ok(Start::Serve(config)) => {
            assert_eq!(config.name.as_str(), "c1");
            assert_eq!(config.pace.ttl_ms, 3_000);
            assert_eq!(config.log.format, crate::config::LogFormat::Json);
        }
        other => panic!("{other:?}"),
    }
    let failure = failure("x serve --ttl 1s", &World::default());
    assert_eq!(failure.exit(), Exit::Config);
    assert!(failure.to_string().contains("flag --ttl: ttl: the TTL must be"), "{failure}");
}

#[test]
fn a_missing_or_wrong_credential_names_its_file() {
    let mut world = World::default();
    let text = failure("x stats", &world).to_string();
    assert!(text.contains("/var/lib/rollcall-collector/admin.credential"), "{text}");
    world.variables.insert("ROLLCALL_STATE_DIR".into(), "/srv/state".into());
    let text = failure("x stats", &world).to_string();
    assert!(text.contains("/srv/state/admin.credential"), "{text}");
    world.variables.insert("ROLLCALL_CREDENTIAL_FILE".into(), "/env/file".into());
    world.files.insert("/env/file".into(), "hush hush".into());
    let failed = failure("x stats", &world);
    assert_eq!(failed.exit(), Exit::Config);
    assert!(failed.to_string().contains("/env/file holds no credential"), "{failed}");
    assert!(!failed.to_string().contains("hush"), "{failed}");
    let text = failure("x stats --credential-file /flag/file", &world).to_string();
    assert!(text.contains("/flag/file"), "{text}");
}

#[test]
fn a_silent_collector_is_named_with_the_way_to_start_it() {
    // A port that was free a moment ago refuses connections.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let credential = rollcall_common::token::Credential::random(rollcall_common::token::CredentialKind::Bootstrap);
    let mut world = World::default();
    world.files.insert("/f".into(), credential.unwrap().reveal().to_string());
    world.variables.insert("ROLLCALL_API".into(), format!("http://127.0.0.1:{port}").into());
    let failed = failure("x services list --credential-file /f", &world);
    assert_eq!(failed.exit(), Exit::Unreachable);
    let text = failed.to_string();
    assert!(text.contains(&format!("http://127.0.0.1:{port}")), "{text}");
    assert!(text.contains("ROLLCALL_API") && text.contains("rollcall-collector serve"), "{text}");
}

/// A collector's API over a real socket, kept while the operator's commands run beside it.
fn with_api(role: &str, test: impl FnOnce(&World)) {
    let services: Vec<_> = (0..25).map(|n| fixture::row(&format!("agent/a{n:02}"))).collect();
    let world = fixture::World::new(&[services, vec![fixture::row("poller/p"), fixture::row("checker/c")]].concat());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let parts = world.parts(world.registry().beaten("agent/a03"));
    let server = runtime.block_on(http::bind(parts, fixture::settings())).unwrap();
    let mut operator = World::default();
    operator.files.insert("/f".into(), world.credentials[role].clone());
    operator.variables.insert("ROLLCALL_CREDENTIAL_FILE".into(), "/f".into());
    operator.variables.insert("ROLLCALL_API".into(), format!("http://{}", server.address()).into());
    test(&operator);
    runtime.block_on(server.stop(std::time::Duration::from_secs(5)));
}

#[test]
fn lists_are_tables_documents_or_bare_ids() {
    with_api("viewer", |world| {
        let table = printed("x services list --kind agent --presence alive", world).unwrap();
        let lines: Vec<&str> = table.lines().collect();
        assert!(
            lines[0]
                .split_whitespace()
                .eq(["KIND", "ID", "PARENT", "STATUS", "PRESENCE", "HEALTH", "LAST", "SEEN", "FROM"])
        );
        assert_eq!(lines.len(), 2, "{table}");
        assert!(lines[1].starts_with("agent  a03  p "), "{table}");
        assert!(!table.contains('\u{1b}'), "no colour without a terminal");

        let raw = printed("x services list --kind agent -o raw", world).unwrap();
        assert_eq!(raw.lines().count(), 25);
        assert_eq!(raw.lines().next(), Some("agent/a00"));
        let cut = printed("x services list --max 7 -o json", world).unwrap();
        let cut: serde_json::Value = serde_json::from_str(&cut).unwrap();
        assert_eq!((cut["items"].as_array().map(Vec::len), &cut["more"]), (Some(7), &true.into()));
        assert!(printed("x services list --max 7", world).unwrap().contains("only the first 7"));
        assert!(printed("x services list --status revoked", world).unwrap().contains("nothing matches"));

        let tree = printed("x services tree poller/p -o raw", world).unwrap();
        assert_eq!(tree.lines().count(), 26);
        assert!(printed("x services show a03", world).unwrap().contains("agent/a03"));
        assert!(printed("x token list -o raw", world).unwrap().lines().count() == 5);
        assert!(printed("x stats", world).unwrap().contains("never_seen"));
    });
}

#[test]
fn a_refusal_ends_with_77_and_says_why() {
    with_api("viewer", |world| {
        for (line, words) in [
            ("x services show agent/nobody", "agent/nobody is not registered (unknown_service, request "),
            ("x services show nobody", "no service of any kind has the id nobody"),
            ("x services revoke agent/a03", "the role viewer does not allow this (forbidden"),
            ("x services list --status asleep", "use pending, active, inactive, revoked, deleted"),
            ("x token create --kind poller", "the role viewer does not allow this"),
        ] {
            let failed = failure(line, world);
            assert_eq!(failed.exit(), Exit::Refused, "{line}: {failed}");
            assert!(failed.to_string().contains(words), "{line}: {failed}");
        }
        // The store of this collector does not answer: that is no refusal.
        assert_eq!(failure("x audit", world).exit(), Exit::Unreachable);
    });
    with_api("expired", |world| {
        let failed = failure("x stats", world);
        assert_eq!(failed.exit(), Exit::Refused);
        assert!(failed.to_string().contains("did not accept the credential in /f"), "{failed}");
    });
}

//! The command line without a collector.

use std::{collections::BTreeMap, path::Path};

use clap::CommandFactory;

use super::*;

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

fn failure(line: &str, world: &World) -> Failure {
    run(parsed(line).unwrap().command, world).unwrap_err()
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
    match run(parsed(line).unwrap().command, &World::default()) {
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

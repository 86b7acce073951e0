//! The command line without a collector.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex},
};

use clap::CommandFactory;

use super::*;
use crate::http::{self, fixture};

mod live;

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
    run(parsed(line).unwrap(), world, Screen::kept(Box::new(paper.clone())))?;
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
fn every_command_has_help_with_examples() {
    fn walk(command: &clap::Command, path: &str, bare: &mut Vec<String>) {
        for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
            let path = format!("{path} {}", sub.get_name());
            let about = sub.get_about().map(ToString::to_string).unwrap_or_default();
            let leaf = sub.get_subcommands().next().is_none();
            let examples = sub.get_after_help().is_some_and(|help| help.to_string().contains("rollcall-collector "));
            if about.is_empty() || (leaf && !examples) {
                bare.push(path.clone());
            }
            walk(sub, &path, bare);
        }
    }
    let mut bare = Vec::new();
    walk(&grammar(), "", &mut bare);
    assert!(bare.is_empty(), "no description, or no example in after_help: {bare:?}");
}

#[test]
fn examples_are_commands_that_are_understood() {
    fn walk(command: &clap::Command, wrong: &mut Vec<String>) {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        // A shell joins what a backslash breaks.
        let mut parts = help.split("\\\n");
        let first = parts.next().unwrap_or_default().to_owned();
        let help = parts.fold(first, |whole, part| whole + part.trim_start());
        let bare = |line: &str| line.trim_start().trim_start_matches("umask 077; ").trim_end().to_owned();
        for line in help.lines().filter(|line| line.starts_with("  ")).map(bare) {
            if !line.starts_with("rollcall-collector ") {
                continue;
            }
            // What follows two blanks explains; pipes and redirections belong to the shell.
            let line = line.split("  ").next().unwrap_or_default();
            let line = line.split(['|', '>', '<']).next().unwrap_or_default();
            let words = shell_words(line);
            if let Err(error) = grammar().try_get_matches_from(words) {
                wrong.push(format!("{line}: {error}"));
            }
        }
        for sub in command.get_subcommands() {
            walk(sub, wrong);
        }
    }
    let mut wrong = Vec::new();
    walk(&grammar(), &mut wrong);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Words as a shell sees them, as far as quotes go.
fn shell_words(line: &str) -> Vec<String> {
    let (mut words, mut quote) = (vec![String::new()], None);
    for c in line.trim().chars() {
        match (quote, c) {
            (None, ' ') => words.push(String::new()),
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), c) if open == c => quote = None,
            (_, c) => words.last_mut().unwrap().push(c),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[test]
fn flags_that_reach_a_collector_are_hidden_where_there_is_none() {
    let help = |line: &str| grammar().try_get_matches_from(line.split_whitespace()).unwrap_err().to_string();
    assert!(help("x services list --help").contains("--credential-file"));
    assert!(help("x --help").contains("--credential-file"));
    assert!(!help("x serve --help").contains("--credential-file"), "{}", help("x serve --help"));
}

#[test]
fn completions_know_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let script = printed(&format!("x completions {shell}"), &World::default()).unwrap();
        assert!(script.contains("rollcall-collector") && script.contains("services"), "{shell}");
    }
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
        "x --api http://127.0.0.1:1 --context c -o yaml --color never services list --columns id,labels.site --no-headers",
        "x service show agent edge-17",
        "x tokens list --columns id --output yaml",
        "x context add prod --api https://c.example.net --ca-file /ca --credential-stdin --use",
        "x context list",
        "x context use prod",
        "x context remove prod",
        "x context show --context prod",
        "x completions zsh",
        "x services show agent/edge-17",
        "x services show edge-17",
        "x services tree poller/p",
        "x services history agent/a --superseded --limit 10",
        "x services register checker/c --parent a --checker-kind snmp --metadata rack=b7",
        "x services revoke agent/a --reason gone",
        "x services remove a",
        "x services revoke agent a --cascade --reason gone",
        "x services edit agent/a --label site=3 --unset-label rack --placeholder true --ephemeral-after 30m",
        "x services reenroll a --revoke --ttl 1h --local",
        "x services known poller/p -o raw",
        "x services edit agent/a --label site=3 --if-match 1-42",
        "x services remove agent/a --if-match \"1-42\"",
        "x services deactivate agent/a --reason off",
        "x services bulk deactivate -l presence=lost --dry-run",
        "x services list --subtree poller/p --presence-reason brake --placeholder false --maintenance true --fields id",
        "x services list --seen-before 7d --registered-after 2026-11-21T02:46:00Z --agent-version 0.1.0",
        "x services register poller/p --ephemeral-after 1h",
        "x packages create poller/p --revoked-retry 10m",
        "x services bulk delete --selector label=site=3 -l status=inactive --expect 3",
        "x apply -f - --dry-run --recover",
        "x apply -f fleet.yaml --prune --selector subtree=poller/p --expect 2",
        "x audit --object agent/a --action service.revoked --max 5",
        "x audit verify --file /f",
        "x audit export --after 7",
        "x audit seals --max 5",
        "x watch --type service.status --kind agent --label site=3 -o json",
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
        Start::Serve(..) | Start::Ran(_) => panic!("{line} would run"),
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
        "x purge --expect some",
        "x jobs pause purge",
        "x maintenance start --for 1h --reason x",
        "x maintenance start --service edge --for 1h --reason x",
        "x maintenance schedule --label a --for 1h --reason x",
        "x maintenance run --label a --for 1h --reason x",
        "x services list --watch 1ms",
        "x services list --max 0",
        "x services register agent",
        "x services show agent edge 17",
        "x services list -o xml",
        "x services list --color sometimes",
        "x serve --api http://127.0.0.1:1",
        "x --context c check",
        "x completions ksh",
        "x context add ../c --api http://127.0.0.1:1",
        "x --context nowhere stats",
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
    match run(parsed(line).unwrap(), &World::default(), Screen::kept(Box::new(io::sink()))) {
        Ok(Start::Serve(config, _)) => {
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
fn contexts_name_collectors() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::default();
    world.variables.insert("XDG_CONFIG_HOME".into(), dir.path().into());
    let file = dir.path().join("rollcall/cli.toml");
    let reread = |world: &mut World| {
        world.files.insert(file.clone(), std::fs::read_to_string(&file).unwrap());
    };
    let credential = rollcall_common::token::Credential::random(rollcall_common::token::CredentialKind::Bootstrap);
    let credential = credential.unwrap().reveal().to_string();
    world.files.insert("/c/prod".into(), credential.clone());
    let add = "x context add prod --api https://c.example.net --credential-file /c/prod";
    assert!(printed(add, &world).unwrap().contains("--context prod"));
    reread(&mut world);
    assert!(failure(add, &world).to_string().contains("add --replace"));
    printed("x context add lab --api http://127.0.0.1:9", &world).unwrap();
    reread(&mut world);
    assert!(!world.files[&file].contains(&credential), "a secret has no place in it");
    let listed = printed("x context list", &world).unwrap();
    assert!(listed.lines().nth(1).is_some_and(|line| line.contains("lab") && !line.contains('*')), "{listed}");
    assert!(listed.lines().nth(2).is_some_and(|line| line.contains("* ") && line.contains("prod")), "{listed}");
    let shown = printed("x context show -o json", &world).unwrap();
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["api"], "https://c.example.net");
    assert_eq!(shown["credential_from"], "context prod");
    printed("x context use lab", &world).unwrap();
    reread(&mut world);
    assert!(printed("x context show", &world).unwrap().contains("http://127.0.0.1:9"));
    assert!(printed("x --context prod context show -o raw", &world).unwrap().starts_with("https://c.example.net"));
    printed("x context remove prod", &world).unwrap();
    reread(&mut world);
    assert_eq!(failure("x --context prod stats", &world).exit(), Exit::Usage);
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
        assert_eq!(cut["items"].as_array().map(Vec::len), Some(7));
        assert!(cut["next"].is_string() && cut["seq"].is_u64() && cut["epoch"].is_u64(), "{cut}");
        let yaml = printed("x -o yaml services list --max 7", world).unwrap();
        let yaml: serde_json::Value = serde_saphyr::from_str(&yaml).unwrap();
        assert_eq!(yaml, cut);
        let bare =
            printed("x services list --kind agent --max 1 --no-headers --columns presence,labels.x,id", world).unwrap();
        assert_eq!(bare.split_whitespace().collect::<Vec<_>>(), ["never_seen", "-", "a00"]);
        assert_eq!(failure("x services list --columns nope", world).exit(), Exit::Usage);
        let coloured = printed("x services list --max 1 --color always", world).unwrap();
        assert!(coloured.contains('\u{1b}'), "{coloured}");
        assert!(printed("x services list --max 7", world).unwrap().contains("only the first 7"));
        assert!(printed("x services list --status revoked", world).unwrap().contains("nothing matches"));

        let tree = printed("x services tree poller/p -o raw", world).unwrap();
        assert_eq!(tree.lines().count(), 26);
        assert!(printed("x services show a03", world).unwrap().contains("agent/a03"));
        assert!(printed("x services show agent a03", world).unwrap().contains("agent/a03"));
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

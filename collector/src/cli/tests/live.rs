//! Commands that change something, against a registry with a store of its own behind a real socket.

use std::sync::Arc;

use rollcall_common::{id::BootId, time::Clock};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    audit::sealer::Sealer,
    http::fixture::PACE,
    registry::{Actor, Whoami},
    store::{
        RegistryStore,
        rows::{Change, Write},
        sqlite::SqliteStore,
        suite::samples::event,
    },
};

/// A collector that takes changes, while commands of an administrator's run beside it.
fn with_collector(test: impl FnOnce(&mut World)) {
    with_trail(0, test);
}

/// The same with so many sealed batches behind it, each of an event with a long text in it.
fn with_trail(batches: usize, test: impl FnOnce(&mut World)) {
    let dir = tempfile::tempdir().unwrap();
    let world = fixture::World::new(&[]);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let stop = CancellationToken::new();
    let (server, task) = runtime.block_on(async {
        let store: Arc<dyn RegistryStore> = Arc::new(SqliteStore::open(&dir.path().join("registry.db")).await.unwrap());
        let credentials = world.credentials().into_iter().map(Write::InsertCredential).collect();
        let now = world.clock.now().wall;
        store.commit(&[Change { writes: credentials, audit: Vec::new() }], now).await.unwrap()[0].as_ref().unwrap();
        let sealer = Sealer::new(Arc::clone(&store), 1, Arc::default(), Arc::new(|_| {}));
        for n in 0..batches {
            let mut event = event("service.did", &format!("agent/a{n}"));
            event.details.insert("said".into(), json!("ü€".repeat(n * 5)));
            store.commit(&[Change { writes: Vec::new(), audit: vec![event] }], now).await.unwrap();
            assert!(sealer.seal(true, now).await.unwrap());
        }
        let whoami = Whoami {
            trust_domain: "fleet.example".parse().unwrap(),
            collector: "c1".parse().unwrap(),
            boot_id: BootId([1; 16]),
        };
        let clock: Arc<dyn Clock> = Arc::<rollcall_common::time::ManualClock>::clone(&world.clock);
        let (actor, registry) =
            Actor::open(Arc::clone(&store), clock, whoami, (PACE, None), Arc::default()).await.unwrap();
        let parts = http::Parts { store, ..world.parts(registry) };
        (http::bind(parts, fixture::settings()).await.unwrap(), runtime.spawn(actor.run(stop.clone())))
    });
    let mut operator = World::default();
    operator.files.insert("/f".into(), world.credentials["admin"].clone());
    operator.variables.insert("ROLLCALL_CREDENTIAL_FILE".into(), "/f".into());
    operator.variables.insert("ROLLCALL_API".into(), format!("http://{}", server.address()).into());
    test(&mut operator);
    runtime.block_on(server.stop(std::time::Duration::from_secs(30)));
    stop.cancel();
    runtime.block_on(task).unwrap();
}

fn document(line: &str, world: &World) -> Value {
    serde_json::from_str(&printed(line, world).unwrap()).unwrap()
}

/// p > a, b; q.
fn family(world: &mut World) {
    let text = "kind: poller\nid: p\n---\nkind: poller\nid: q\n---\nservice: agent/a\nparent: p\n---\n\
                service: agent/b\nparent: p\n";
    world.files.insert("/all".into(), text.into());
    printed("x apply -f /all", world).unwrap();
}

#[test]
fn a_prune_deletes_what_its_selector_finds_and_no_more() {
    with_collector(|world| {
        family(world);
        printed("x services revoke agent/b", world).unwrap();
        world.files.insert("/q".into(), "kind: poller\nid: q\n".into());
        // Only what is revoked was asked for.
        let seen = document("x apply -f /q --prune -l status=revoked --dry-run -o json", world);
        assert_eq!((&seen["deleted"], &seen["pruned"]), (&json!(1), &json!(["agent/b"])), "{seen}");
        let failed = failure("x apply -f /q --prune -l status=revoked -l status=active --dry-run", world);
        assert!(failed.to_string().contains("status comes more than once"), "{failed}");
        let seen = document("x apply -f /q --prune -l kind=agent --dry-run -o json", world);
        assert_eq!(seen["pruned"], json!(["agent/a", "agent/b"]), "whatever is not deleted: {seen}");
        let failed = failure("x apply -f /q --prune -l kind=agent", world);
        assert!(failed.to_string().contains("say --expect 2"), "{failed}");
        let done = document("x apply -f /q --prune -l kind=agent --expect 2 -o json", world);
        assert_eq!((&done["deleted"], &done["pruned"]), (&json!(2), &json!(["agent/a", "agent/b"])), "{done}");
        let left = printed("x services list --status deleted -o raw", world).unwrap();
        assert_eq!(left, "agent/a\nagent/b\n");
    });
}

#[test]
fn a_prune_does_the_rest_where_some_must_stay() {
    with_collector(|world| {
        family(world);
        // Its parent is not named, and cannot go while it stands.
        world.files.insert("/some".into(), "service: agent/a\nparent: p\n".into());
        let failed = failure("x apply -f /some --prune -l status=pending --expect 2", world);
        assert_eq!(failed.exit(), Exit::Refused);
        assert!(failed.to_string().contains("1 services that the manifest does not name"), "{failed}");
        let left = printed("x services list --status pending -o raw", world).unwrap();
        assert_eq!(left, "poller/p\nagent/a\n", "what could go went");
        let failed = failure("x apply -f /some --prune -l status=pending --dry-run", world);
        assert!(failed.to_string().contains("could not be deleted"), "{failed}");
    });
}

#[test]
fn a_prune_needs_a_manifest_that_was_understood() {
    with_collector(|world| {
        family(world);
        world.files.insert("/odd".into(), "kind: poller\nid: p\n---\nkind: poller\nid: q\ncolour: red\n".into());
        world.files.insert("/empty".into(), "\n".into());
        for (line, words) in [
            ("x apply -f /odd --prune -l kind=poller --expect 1", "and so nothing was deleted"),
            ("x apply -f /odd --prune -l kind=agent --expect 2", "1 of 2 items were refused"),
            ("x apply -f /empty --prune -l kind=agent --expect 2", "names nothing"),
        ] {
            let failed = failure(line, world);
            assert_eq!(failed.exit(), Exit::Refused, "{line}");
            assert!(failed.to_string().contains(words), "{line}: {failed}");
        }
        assert_eq!(printed("x services list --status pending -o raw", world).unwrap().lines().count(), 4);
    });
}

#[test]
fn an_act_on_many_ends_well_only_if_all_was_done() {
    with_collector(|world| {
        family(world);
        let failed = failure("x services bulk delete -l kind=agent", world);
        assert_eq!(failed.exit(), Exit::Usage, "nobody was there to be asked");
        assert!(failed.to_string().contains("say --expect 2"), "{failed}");
        assert!(printed("x services bulk delete -l kind=agent --dry-run", world).unwrap().contains("2 services would"));
        assert!(printed("x services bulk delete -l kind=checker", world).unwrap().contains("0 services would"));
        assert_eq!(failure("x services bulk delete -l kind=agent --expect 3", world).exit(), Exit::Refused);
        assert!(printed("x services bulk delete -l kind=agent --expect 2", world).unwrap().contains("2 services"));
    });
    assert_eq!(services::bulk::whole(2, 2), Ok(()));
    assert_eq!(services::bulk::whole(1, 2).unwrap_err().exit(), Exit::Refused);
}

#[test]
fn a_long_trail_is_checked_and_exported_as_it_is() {
    with_trail(105, |world| {
        let seals = printed("x audit seals --max 200 -o raw", world).unwrap();
        assert_eq!(seals.lines().count(), 105);
        // A check takes more than one answer: a head may lie in any of them.
        for at in [0, 99, 100, 104] {
            let head = seals.lines().nth(at).unwrap();
            assert!(printed(&format!("x audit verify --head {head}"), world).unwrap().contains("holds"), "{at}");
        }
        let failed = failure(&format!("x audit verify --head {}", "7".repeat(64)), world);
        assert_eq!(failed.exit(), Exit::Refused);
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("audit.jsonl");
        std::fs::write(&file, printed("x audit export", world).unwrap()).unwrap();
        let line = format!("x audit verify --file {} -o json", file.display());
        let found = document(&line, world);
        assert_eq!((&found["seals"], &found["events"]), (&json!(105), &json!(105)), "{found}");
    });
}

#[test]
fn a_login_burns_no_code_for_a_session_that_cannot_be_kept() {
    with_collector(|world| {
        let dir = tempfile::tempdir().unwrap();
        let at = |world: &mut World, place: &str| {
            world.variables.insert("XDG_CONFIG_HOME".into(), dir.path().join(place).into());
        };
        let api = world.variables["ROLLCALL_API"].clone().into_string().unwrap();
        let code = printed(&format!("x login-code --api {api} -o raw"), world).unwrap();
        let login = format!("x login {} --api {api}", code.trim());
        std::fs::write(dir.path().join("file"), "").unwrap();
        at(world, "file");
        assert_eq!(failure(&login, world).exit(), Exit::Failed, "there is no directory to be made");
        assert_eq!(failure(&format!("{login} --as ../x"), world).exit(), Exit::Usage);
        world.variables.remove("XDG_CONFIG_HOME");
        assert_eq!(failure(&login, world).exit(), Exit::Config);
        at(world, "good");
        assert!(printed(&login, world).unwrap().contains("context"), "the code was spared");
        let kept = dir.path().join("good/rollcall/local.credential");
        assert!(kept.exists());
        assert_eq!(std::fs::read_dir(kept.parent().unwrap()).unwrap().count(), 2, "no trial is left");

        // What fails nevertheless ends the session.
        let code = printed(&format!("x login-code --api {api} -o raw"), world).unwrap();
        at(world, "odd");
        std::fs::create_dir_all(dir.path().join("odd/rollcall/cli.toml")).unwrap();
        let failed = failure(&format!("x login {} --api {api}", code.trim()), world);
        assert!(failed.to_string().contains("the session was ended again"), "{failed}");
        assert!(!dir.path().join("odd/rollcall/local.credential").exists());
        let ended = printed("x audit --action login.ended -o raw", world).unwrap();
        assert_eq!(ended.lines().count(), 1);
    });
}

#[test]
fn a_change_is_bound_to_what_was_looked_at() {
    with_collector(|world| {
        family(world);
        let seen = document("x services show agent/a -o json", world);
        let version = seen["version"].as_str().unwrap().to_owned();
        assert!(printed("x services show agent/a", world).unwrap().contains(&version));
        let edit = format!("x services edit agent/a --label site=3 --if-match {version}");
        printed(&edit, world).unwrap();
        assert_eq!(failure(&edit, world).code(), Some("changed"));
        let failed = failure(&format!("x services delete agent/a --if-match {version}"), world);
        assert_eq!(failed.exit(), Exit::Refused);
        let failed = failure(&format!("x services reenroll agent/a --revoke --local --if-match {version}"), world);
        assert_eq!(failed.exit(), Exit::Refused);
        let version = document("x services show agent/a -o json", world)["version"].as_str().unwrap().to_owned();
        printed(&format!("x services delete agent/a --if-match {version}"), world).unwrap();
        assert_eq!(failure(&format!("x services remove agent/a --if-match {version}"), world).exit(), Exit::Refused);
        printed("x services remove agent/a", world).unwrap();
    });
}

#[test]
fn a_copy_of_the_tree_leaves_alone_what_others_wrote() {
    with_collector(|world| {
        family(world);
        let dir = tempfile::tempdir().unwrap();
        let there = |path: &str| dir.path().join("config").join(path).exists();
        let export = |world: &World, more: &str| {
            document(&format!("x config export --dir {} -o json {more}", dir.path().display()), world)
        };
        export(world, "--poller q");
        // A document of somebody who exported nothing.
        std::fs::write(dir.path().join("config/pollers/foreign.json"), "{}").unwrap();
        let done = export(world, "--poller p");
        assert_eq!((&done["documents"], &done["removed"]), (&json!(3), &json!(0)), "{done}");
        assert!(there("pollers/q.json") && there("pollers/foreign.json"));
        printed("x services delete agent/b", world).unwrap();
        printed("x services remove agent/b", world).unwrap();
        assert_eq!(export(world, "--poller p --keep")["removed"], 0);
        assert!(there("pollers/p/agents/b.json"));
        assert_eq!(export(world, "--poller p")["removed"], 1);
        assert!(!there("pollers/p/agents/b.json") && there("pollers/p/agents/a.json") && there("pollers/q.json"));
        // The whole tree owns what its parts wrote.
        printed("x services delete poller/q", world).unwrap();
        printed("x services remove poller/q", world).unwrap();
        assert_eq!(export(world, "")["removed"], 1);
        assert!(!there("pollers/q.json") && there("pollers/foreign.json") && there("pollers/p.json"));
    });
}

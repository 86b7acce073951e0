//! The suite against a real server, and what servers do: die, forget, fall silent.

use rollcall_common::{
    id::SessionNo,
    time::{ManualClock, SystemClock, Timestamp},
};
use tempfile::TempDir;

use super::*;
use crate::store::suite::{liveness_suite, mark, samples::key, server::RedisServer, until};

const LONG: u32 = 3_600_000;

async fn server(options: &[&str]) -> (TempDir, RedisServer) {
    let folder = tempfile::tempdir().unwrap();
    let server = RedisServer::start(folder.path(), options).await;
    (folder, server)
}

fn open(url: &str) -> RedisLiveness {
    RedisLiveness::open(url, Arc::new(SystemClock)).unwrap()
}

/// Publishes until the server takes it; answers with the first success.
async fn recovers(store: &RedisLiveness, marks: &[Mark]) -> Continuity {
    until("a publication goes through", async || store.publish(marks).await.ok()).await
}

fn is_unavailable(error: &StoreError) -> bool {
    matches!(error, StoreError::Unavailable { .. })
}

#[tokio::test]
async fn keeps_every_promise() {
    let (_folder, server) = server(&[]).await;
    let fresh = || -> Arc<dyn LivenessStore> {
        assert_eq!(server.ask(&["FLUSHALL"]), "OK");
        Arc::new(open(&server.url()))
    };
    liveness_suite(fresh, |_| {}).await;
}

/// Over TCP, in another database than the first; the address is how most will write it.
#[tokio::test]
async fn works_over_tcp() {
    let (folder, server) = server(&[]).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let store = open(&format!("redis://{}/3", listener.local_addr().unwrap()));
    let relay = async {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let mut unix = tokio::net::UnixStream::connect(folder.path().join("redis.sock")).await.unwrap();
        tokio::io::copy_bidirectional(&mut tcp, &mut unix).await.unwrap();
    };
    let mark = mark("agent/a", 1, 1, LONG);
    let talk = async {
        assert_eq!(store.publish(std::slice::from_ref(&mark)).await, Ok(Continuity::Kept));
        assert_eq!(store.all().await, Ok(vec![mark]));
    };
    tokio::select! {
        () = relay => panic!("the connection ended"),
        () = talk => {}
    }
    assert_eq!(server.ask(&["-n", "3", "EXISTS", "rollcall:live:agent:a"]), "1");
}

/// A host that takes the connection and never says a word.
#[tokio::test]
async fn a_mute_host_is_given_up() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let store = open(&format!("redis://{}", listener.local_addr().unwrap()));
    assert!(is_unavailable(&store.publish(&[]).await.unwrap_err()));

    // Those who wait for one dial share its end: a hundred callers do not wait for a hundred.
    let service = key("agent/a");
    let all = futures_util::future::join_all((0..100).map(|_| store.get(&service)));
    assert!(all.await.iter().all(Result::is_err));
    assert_eq!(store.dials.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn strangers_find_what_the_design_promises() {
    let (_folder, server) = server(&[]).await;
    let clock = Arc::new(ManualClock::new(Timestamp(1_000_000)));
    let store = RedisLiveness::open(&server.url(), clock).unwrap();
    store.publish(&[mark("agent/edge-17", 3, 4, 30_000)]).await.unwrap();
    assert_eq!(server.ask(&["GET", "rollcall:live:agent:edge-17"]), "3:4:30000");
    let left: u32 = server.ask(&["PTTL", "rollcall:live:agent:edge-17"]).parse().unwrap();
    assert!((1..=30_000).contains(&left));
    let shard = entry::shard_key(entry::shard(&key("agent/edge-17")));
    assert_eq!(server.ask(&["HGET", &shard, "agent/edge-17"]), "3:4:30000:1000000");
    assert_eq!(server.ask(&["GET", "rollcall:epoch"]).len(), 32);
    store.retire(&[key("agent/edge-17")]).await.unwrap();
    assert_eq!(server.ask(&["KEYS", "*"]), "rollcall:epoch");
}

#[tokio::test]
async fn two_collectors_see_one_another_and_both_notice_a_flush() {
    let (_folder, server) = server(&[]).await;
    let (one, two) = (open(&server.url()), open(&server.url()));
    let (a, b) = (mark("agent/a", 1, 1, LONG), mark("agent/b", 1, 1, LONG));
    assert_eq!(one.publish(std::slice::from_ref(&a)).await, Ok(Continuity::Kept));
    assert_eq!(two.publish(std::slice::from_ref(&b)).await, Ok(Continuity::Kept));
    assert_eq!(one.get(&b.service).await, Ok(Some(b.clone())));
    assert_eq!(two.all().await.unwrap().len(), 2);

    server.ask(&["FLUSHALL"]);
    assert_eq!(one.publish(&[]).await, Ok(Continuity::Lost), "also without a mark to publish");
    assert_eq!(one.publish(&[a]).await, Ok(Continuity::Kept));
    assert_eq!(two.publish(&[b]).await, Ok(Continuity::Lost), "although an epoch is there again");
    assert_eq!(two.publish(&[]).await, Ok(Continuity::Kept));
    assert_eq!(one.publish(&[]).await, Ok(Continuity::Kept));
}

#[tokio::test]
async fn a_killed_server_is_missed_and_its_return_is_a_loss() {
    let (_folder, mut server) = server(&[]).await;
    let store = open(&server.url());
    let mark = mark("agent/a", 1, 1, LONG);
    assert_eq!(store.publish(std::slice::from_ref(&mark)).await, Ok(Continuity::Kept));
    server.kill();
    for _ in 0..3 {
        assert!(is_unavailable(&store.publish(std::slice::from_ref(&mark)).await.unwrap_err()));
        assert!(is_unavailable(&store.get(&mark.service).await.unwrap_err()));
    }
    server.restart().await;
    // Whoever connects first must not swallow the news.
    until("a reading goes through", async || store.all().await.ok()).await;
    assert_eq!(recovers(&store, std::slice::from_ref(&mark)).await, Continuity::Lost);
    assert_eq!(store.publish(&[]).await, Ok(Continuity::Kept));
    assert_eq!(store.all().await, Ok(vec![mark]));
}

/// The epoch alone would not tell: it was in the snapshot.
#[tokio::test]
async fn a_server_restarted_from_a_snapshot_is_a_loss() {
    let (_folder, mut server) = server(&[]).await;
    let store = open(&server.url());
    assert_eq!(store.publish(&[mark("agent/a", 1, 1, LONG)]).await, Ok(Continuity::Kept));
    assert_eq!(server.ask(&["SAVE"]), "OK");
    assert_eq!(store.publish(&[mark("agent/a", 1, 2, LONG)]).await, Ok(Continuity::Kept));
    server.restart().await;
    assert_eq!(server.ask(&["GET", "rollcall:live:agent:a"]), format!("1:1:{LONG}"), "it fell back");
    assert_eq!(recovers(&store, &[]).await, Continuity::Lost);
    assert_eq!(store.publish(&[]).await, Ok(Continuity::Kept));
}

#[tokio::test]
async fn a_lost_connection_alone_is_no_loss() {
    let (_folder, server) = server(&[]).await;
    let store = open(&server.url());
    let mark = mark("agent/a", 1, 1, LONG);
    assert_eq!(store.publish(std::slice::from_ref(&mark)).await, Ok(Continuity::Kept));
    for _ in 0..3 {
        server.ask(&["CLIENT", "KILL", "TYPE", "normal"]);
        assert_eq!(recovers(&store, &[]).await, Continuity::Kept);
        assert_eq!(store.get(&mark.service).await, Ok(Some(mark.clone())));
    }
}

#[tokio::test]
async fn a_silent_server_is_given_up_and_found_again() {
    let (_folder, server) = server(&[]).await;
    let store = open(&server.url());
    assert_eq!(store.publish(&[mark("agent/a", 1, 1, LONG)]).await, Ok(Continuity::Kept));
    server.pause();
    for _ in 0..2 {
        assert!(is_unavailable(&store.publish(&[mark("agent/a", 1, 2, LONG)]).await.unwrap_err()));
    }
    server.resume();
    let last = mark("agent/a", 1, 3, LONG);
    assert_eq!(recovers(&store, std::slice::from_ref(&last)).await, Continuity::Kept);
    assert_eq!(store.get(&last.service).await, Ok(Some(last)));
}

#[tokio::test]
async fn a_server_may_come_later() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&format!("unix://{}/redis.sock", folder.path().display()));
    let error = store.publish(&[]).await.unwrap_err();
    assert!(is_unavailable(&error) && error.to_string().contains("redis.sock"), "{error}");
    let _server = RedisServer::start(folder.path(), &[]).await;
    assert_eq!(store.publish(&[]).await, Ok(Continuity::Kept), "nothing had been published before");
}

#[tokio::test]
async fn a_server_that_refuses_is_unavailable_and_never_told_with_the_password() {
    let (_folder, server) = server(&["--requirepass", "sesame"]).await;
    let path = server.url();
    let path = path.trim_start_matches("unix://");
    for password in ["hunter2", "sesame"] {
        let store = open(&format!("unix://{path}?pass={password}"));
        let told = match store.publish(&[mark("agent/a", 1, 1, LONG)]).await {
            Ok(_) if password == "sesame" => store.name(),
            Err(error) if password == "hunter2" && is_unavailable(&error) => format!("{error} {error:?}"),
            other => panic!("{password}: {other:?}"),
        };
        assert!(!format!("{told} {store:?} {}", store.name()).contains(password));
    }
    for url in ["", "redis:/hunter2", "http://:hunter2@host", "rediss://:hunter2@host", "redis://:hunter2@host/x"] {
        let error = RedisLiveness::open(url, Arc::new(SystemClock)).unwrap_err();
        assert!(matches!(error, StoreError::Misconfigured { .. }), "{url}");
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
    }
    assert_eq!(open("redis://user:hunter2@192.0.2.1:6380/3").name(), "Redis 192.0.2.1:6380/3");
}

/// A full server refuses writes; the view is stale then, and somebody is told.
#[tokio::test]
async fn a_full_server_is_unavailable() {
    let (_folder, server) = server(&[]).await;
    let store = open(&server.url());
    assert_eq!(store.publish(&[]).await, Ok(Continuity::Kept));
    server.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    assert!(is_unavailable(&store.publish(&[mark("agent/a", 1, 1, LONG)]).await.unwrap_err()));
    server.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(recovers(&store, &[mark("agent/a", 1, 1, LONG)]).await, Continuity::Kept);
}

/// Without `INFO` nobody can tell one server from another: a new connection then counts as a loss.
#[tokio::test]
async fn a_server_that_hides_its_run_id_is_not_trusted_over_a_reconnect() {
    let (_folder, server) = server(&["--rename-command", "INFO", ""]).await;
    let store = open(&server.url());
    assert_eq!(store.publish(&[]).await, Ok(Continuity::Kept));
    assert_eq!(store.publish(&[]).await, Ok(Continuity::Kept));
    server.ask(&["CLIENT", "KILL", "TYPE", "normal"]);
    assert_eq!(recovers(&store, &[]).await, Continuity::Lost);
    assert_eq!(store.publish(&[]).await, Ok(Continuity::Kept));
}

#[tokio::test]
async fn outlived_fields_are_removed_and_strange_ones_passed_over() {
    let (_folder, server) = server(&[]).await;
    let clock = Arc::new(ManualClock::new(Timestamp(1_000_000)));
    let store = RedisLiveness::open(&server.url(), clock.clone()).unwrap();
    store.publish(&[mark("agent/short", 1, 1, 100), mark("agent/skewed", 1, 1, LONG)]).await.unwrap();
    let shard = |name| entry::shard_key(entry::shard(&key(name)));
    let kept = |name| server.ask(&["HEXISTS", &shard(name), name]) == "1";
    server.ask(&["HSET", &shard("agent/short"), "robot/x", "1:2:3:4"]);
    server.ask(&["HSET", &shard("agent/short"), "agent/b", "not a mark"]);
    until("the TTL key ends", async || (server.ask(&["EXISTS", "rollcall:live:agent:short"]) == "0").then_some(()))
        .await;

    clock.advance(Duration::from_millis(150));
    assert_eq!(store.all().await.unwrap().len(), 1);
    assert!(kept("agent/short"), "once past its time it is passed over");
    clock.advance(Duration::from_millis(100));
    assert_eq!(store.all().await.unwrap().len(), 1);
    assert!(!kept("agent/short"), "twice past it is removed");
    assert!(kept("agent/skewed"));

    // A reader whose clock is far ahead sees nothing fresh, and harms nothing: the server knows better.
    clock.advance(Duration::from_secs(100_000));
    assert_eq!(store.all().await, Ok(Vec::new()));
    assert!(kept("agent/skewed"));
    assert_eq!(store.get(&key("agent/skewed")).await.unwrap().map(|mark| mark.session), Some(SessionNo(1)));

    server.ask(&["SET", "rollcall:live:agent:b", "not a mark"]);
    let error = store.get(&key("agent/b")).await.unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }) && error.to_string().contains("rollcall:live:agent:b"));
}

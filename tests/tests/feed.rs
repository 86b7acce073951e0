//! The change feed of a real collector: whoever follows ends with what is, through kills, and holds up nobody.

#![expect(clippy::indexing_slicing, reason = "a JSON value answers null for what is not there")]

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result, ensure};
use rollcall_common::id::Kind;
use rollcall_tests::{
    peer::SOON,
    until::{same, until, within},
    world::{self, Api, Plan, Policy, World, api::word},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

/// What a follower knows of a service: what is fed and what is computed are told apart by the caller.
type State = BTreeMap<String, Value>;

const FIELDS: [&str; 4] = ["status", "labels", "parent", "health"];

fn told(item: &Value) -> Value {
    let mut shown = json!({});
    for field in FIELDS {
        shown[field] = item.get(field).cloned().unwrap_or_default();
    }
    if let Some(word) = item.pointer("/health/health") {
        shown["health"] = word.clone();
    }
    shown
}

fn key(item: &Value) -> Result<String> {
    Ok(format!("{}/{}", word(item, "kind")?, word(item, "id")?))
}

/// Every page, and the position of the first.
async fn snapshot(api: &Api, mut between: impl AsyncFnMut() -> Result<()>) -> Result<(State, String)> {
    let (mut state, mut position, mut cursor) = (State::new(), None, String::new());
    loop {
        let page = api.get(&format!("/api/admin/services?limit=3{cursor}")).await?.expect(200)?;
        position.get_or_insert_with(|| format!("{}-{}", page["epoch"], page["seq"]));
        for item in page["items"].as_array().context("items")? {
            state.insert(key(item)?, told(item));
        }
        between().await?;
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Ok((state, position.context("a page")?)),
        }
    }
}

/// Follows to the end of what is there, and answers where it stands.
async fn follow(api: &Api, state: &mut State, mut since: String) -> Result<String> {
    loop {
        let page = api.get(&format!("/api/admin/changes?since={since}&limit=7&wait=300ms")).await?.expect(200)?;
        let items = page["items"].as_array().context("items")?;
        for event in items {
            let service = key(event)?;
            match word(event, "type")? {
                "service.removed" => drop(state.remove(&service)),
                "service.registered" => drop(state.insert(service, told(event))),
                _ => {
                    let held = state.get_mut(&service).with_context(|| format!("{service} was never told of"))?;
                    for field in FIELDS {
                        if let Some(value) = event.get(field) {
                            held[field] = value.clone();
                        }
                    }
                }
            }
        }
        since = word(&page, "next")?.to_owned();
        if items.is_empty() {
            return Ok(since);
        }
    }
}

async fn register(api: &Api, id: &str) -> Result<()> {
    let body = json!({ "id": id, "labels": { "site": "3" } });
    api.post("/api/admin/services/instances", &body).await?.expect(201).map(drop)
}

#[tokio::test]
async fn a_snapshot_and_what_follows_is_what_is_through_a_kill() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let token = world.token_text(Policy::fixed(Kind::Poller, "p")).await?;
        let mut sidecar = world.sidecar("p", "kind = \"poller\"\nid = \"p\"")?;
        sidecar.give_token(&token)?;
        for n in 0..10 {
            register(world.api(), &format!("i{n}")).await?;
        }
        // Changes fall between the pages: one that was read already, one that was not, a new one, one that goes.
        let api = world.api().clone();
        let mut n = 0;
        let (mut state, first) = snapshot(&api, async || {
            n += 1;
            if n == 2 {
                sidecar.start()?;
                register(&api, "a-late").await?;
                api.act("instance/i0", "delete").await?;
                api.act("instance/i9", "revoke").await?;
            }
            Ok(())
        })
        .await?;
        api.wait_alive("poller/p").await?;
        let since = follow(&api, &mut state, first.clone()).await?;
        same("what was followed", &state, &snapshot(&api, async || Ok(())).await?.0)?;

        // Killed in between: the epoch stays and seqs go on, and the position before it is gone.
        world.crash_collector().await?;
        let api = world.api().clone();
        let gone = api.get(&format!("/api/admin/changes?since={first}")).await?.expect(410)?;
        same("the code", &word(&gone, "code")?, &"gone")?;
        let (mut state, again) = snapshot(&api, async || Ok(())).await?;
        let (epoch, seq) = since.split_once('-').context("a position")?;
        let (epoch_now, seq_now) = again.split_once('-').context("a position")?;
        same("the epoch", &epoch_now, &epoch)?;
        ensure!(seq_now.parse::<u64>()? >= seq.parse::<u64>()?, "{again} is before {since}");
        register(&api, "after").await?;
        follow(&api, &mut state, again).await?;
        same("after the kill", &state, &snapshot(&api, async || Ok(())).await?.0)?;

        // Everything that was done is sealed in time, and the seals hold.
        until(SOON, "the trail is sealed", async || {
            let found = api.get("/api/admin/audit/verify").await?.expect(200)?;
            ensure!(found["holds"] == true && found["seals"].as_u64() > Some(0), "{found}");
            Ok(())
        })
        .await?;
        sidecar.terminate().await.map(drop)
    })
    .await
}

/// Opens a stream on a socket of its own.
async fn open(world: &World, room: Option<u32>) -> Result<TcpStream> {
    let credential = std::fs::read_to_string(world.state().join("admin.credential"))?;
    let socket = TcpSocket::new_v4()?;
    if let Some(room) = room {
        socket.set_recv_buffer_size(room)?;
    }
    let mut stream = socket.connect(world.api().addr()).await?;
    let (addr, credential) = (world.api().addr(), credential.trim());
    let head = format!("GET /api/admin/feed HTTP/1.1\r\nHost: {addr}\r\nAuthorization: Bearer {credential}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    Ok(stream)
}

async fn read_until(stream: &mut TcpStream, wanted: &str) -> Result<String> {
    let (mut text, mut buffer) = (String::new(), vec![0; 65_536]);
    while !text.contains(wanted) {
        let count = within(SOON, &format!("{wanted} comes"), stream.read(&mut buffer)).await??;
        ensure!(count > 0, "the stream ended before {wanted}: {text}");
        text.push_str(&String::from_utf8_lossy(buffer.get(..count).unwrap_or_default()));
    }
    Ok(text)
}

#[tokio::test]
async fn open_streams_do_not_hold_up_a_stop() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let mut streams = Vec::new();
        for _ in 0..50 {
            let mut stream = open(world, None).await?;
            read_until(&mut stream, "event: hello").await?;
            streams.push(stream);
        }
        let (asked, status) = world.collector().terminate().await?;
        ensure!(status.success(), "it ended with {status}");
        let ended = rollcall_common::time::Clock::now(&rollcall_common::time::SystemClock).wall;
        let took = ended.since(asked);
        ensure!(took < Duration::from_secs(3), "the stop took {took:?}");
        for stream in &mut streams {
            read_until(stream, "event: bye").await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_reader_that_takes_nothing_is_dropped_and_nobody_else_notices() -> Result<()> {
    let plan = Plan::calm().with("[feed]\nwrite_within = \"2s\"");
    world::run(plan, async |world| {
        let _deaf = open(world, Some(4_096)).await?;
        let mut good = open(world, None).await?;
        read_until(&mut good, "event: hello").await?;
        let api = world.api().clone();
        api.wait_metric("rollcall_feed_readers", "", 2.0).await?;
        let long = "x".repeat(200);
        let labels: BTreeMap<String, &str> = (0..20).map(|n| (format!("l{n}"), long.as_str())).collect();
        // More than the kernel holds for one who does not read.
        let registering = async {
            for n in 0..400 {
                let body = json!({ "id": format!("i{n}"), "labels": labels, "metadata": labels });
                api.post("/api/admin/services/instances", &body).await?.expect(201)?;
            }
            Ok(())
        };
        // Whoever does not read meanwhile takes nothing either.
        tokio::try_join!(registering, read_until(&mut good, "\"id\":\"i399\""))?;
        api.wait_metric("rollcall_feed_dropped_total", "reason=\"stalled\"", 1.0).await?;
        until(SOON, "its place is free again", async || {
            let readers = api.metric("rollcall_feed_readers", "").await?;
            ensure!(readers < 1.5, "{readers} readers");
            Ok(())
        })
        .await
    })
    .await
}

//! Abuse of the wire: W1 to W3, W5 to W8, W10, W11.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use rollcall_common::{
    code::Code,
    id::{BeatNo, Kind, PaceNo},
    identity::tls::Trust,
    wire::{
        MAX_FRAME,
        codec::encode,
        message::{Beat, Down, Up},
    },
};
use rollcall_tests::{
    flood::{Flood, read_all},
    net::Relay,
    peer::{Ask, Close, Identity, Line, Phone, Puppet, SOON, dial_to_enroll, enroll, line, phone},
    redis::Redis,
    until::{always, same, until, within},
    world::{self, Plan, Policy, World},
};
use serde_json::json;

use super::scene::{Registered, refusals};

/// Memory that a collector may take more under abuse than before, in kB: bounded buffers, no pile.
const FLAT_KB: u64 = 48 * 1024;

/// The collector's resident memory, in kB.
fn resident(world: &mut World) -> Result<u64> {
    let pid = world.collector().pid().context("the collector does not run")?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse()?)
}

/// A greeted session of a fresh dial, for one abuse.
async fn greeted(phone: &Phone, to: SocketAddr, identity: &Identity) -> Result<Line> {
    Ok(Puppet::new(identity.clone())?.live(phone, to).await?.line)
}

async fn closed_counted(world: &World, code: Code) -> Result<f64> {
    let labels = format!("code=\"{}\"", code.as_str());
    let closed = world.api().metric("rollcall_connections_closed_total", &labels).await?;
    Ok(closed + refusals(world.api(), code).await?)
}

/// Bytes that are no frames end the session with the right word, on both protocols, and are counted.
async fn abused(world: &World, phone: &Phone, identity: &Identity, bytes: &[u8], code: Code) -> Result<()> {
    let counted = closed_counted(world, code).await?;
    let mut line = greeted(phone, world.quic(), identity).await?;
    line.say_bytes(bytes).await?;
    let ending = line.ending().await?;
    same("the close", &ending.close, &Close::Code(code))?;
    same("the farewell", &ending.bye.map(|bye| bye.code), &Some(code))?;
    until(SOON, "it is counted", async || {
        ensure!(closed_counted(world, code).await? > counted, "it is not");
        Ok(())
    })
    .await
}

/// W1
#[tokio::test]
async fn lengths_that_lie_end_the_session() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let phone = Phone::new()?;
        let identity = world.enroll_poller(&phone, "p").await?;
        let (_, mut bystander) = world.live_poller(&phone, "bystander").await?;
        Puppet::new(identity.clone())?.live(&phone, world.quic()).await?.beat().await?;
        world.api().wait_alive("poller/p").await?;
        let before = Registered::now(world.api()).await?;
        let memory = resident(world)?;
        let over = u32::try_from(MAX_FRAME)? + 1;
        for round in 0..10 {
            abused(world, &phone, &identity, &u32::MAX.to_be_bytes(), Code::FrameTooLarge).await?;
            abused(world, &phone, &identity, &over.to_be_bytes(), Code::FrameTooLarge).await?;
            abused(world, &phone, &identity, &[0; 4], Code::Protocol).await.with_context(|| format!("{round}"))?;
        }
        // A length beyond what follows is waited for, and then no longer.
        let mut line = greeted(&phone, world.quic(), &identity).await?;
        line.say_bytes(&[0, 0, 0, 9, 3]).await?;
        same("half a frame", &line.ending().await?.close, &Close::Code(Code::Deadline))?;
        let now = resident(world)?;
        ensure!(now < memory + FLAT_KB, "memory grew from {memory} kB to {now} kB");
        before.unchanged(world.api()).await?;
        bystander.beat().await.map(drop)
    })
    .await
}

/// W2, on both protocols. The decoder alone is fuzzed and tested beside the codec.
#[tokio::test]
async fn malformed_messages_end_the_session() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let phone = Phone::new()?;
        let identity = world.enroll_poller(&phone, "p").await?;
        let token = world.token(Policy::fixed(Kind::Poller, "q")).await?;
        let before = Registered::now(world.api()).await?;
        let mut trailing = encode(&Up::Beat(Beat { beat_no: BeatNo(1), pace_no: PaceNo(1) }))?;
        trailing.push(0);
        *trailing.get_mut(3).context("a prefix")? += 1;
        let framed = |body: &[u8]| [&u32::try_from(body.len()).unwrap_or(0).to_be_bytes(), body].concat();
        let bodies = [
            trailing,
            framed(&[200, 1]),
            framed(&[3, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]),
            framed(&[4, 0, 4, 0xff, 0xfe, 0xfd, 0xfc]),
            framed(&[6, 0xff, 0xff, 0xff, 0xff, 0x0f]),
            framed(&[7; 64]),
            framed(&vec![0x2a; MAX_FRAME]),
        ];
        for body in bodies {
            abused(world, &phone, &identity, &body, Code::Protocol).await?;
            let mut line = dial_to_enroll(&phone, world.quic(), &token).await?;
            line.say_bytes(&body).await?;
            let ending = line.ending().await?;
            same("the close of an enrollment", &ending.close, &Close::Code(Code::Protocol))?;
        }
        before.unchanged(world.api()).await?;
        enroll(&phone, world.quic(), &token, &Ask::poller("q")?).await?.identity().map(drop)
    })
    .await
}

/// W3
#[tokio::test]
async fn a_body_that_names_another_is_an_attack() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let phone = Phone::new()?;
        let (_, mut victim) = world.live_poller(&phone, "victim").await?;
        let mut evil = Puppet::new(world.enroll_poller(&phone, "evil").await?)?;
        let before = Registered::now(world.api()).await?;
        for name in ["poller/victim", "agent/evil", "poller/nobody"] {
            let mut hello = evil.next_hello();
            hello.service = name.parse()?;
            let counted = closed_counted(world, Code::IdentityMismatch).await?;
            let ending = match evil.dial_saying(&phone, world.quic(), hello).await? {
                Ok(_) => bail!("{name}: it was greeted"),
                Err(ending) => ending,
            };
            same("the close", &ending.close, &Close::Code(Code::IdentityMismatch))?;
            ensure!(closed_counted(world, Code::IdentityMismatch).await? > counted, "it was not counted");
        }
        let event = world.api().wait_audit("identity.mismatch", "poller/evil").await?;
        same("the actor", &event["actor"], &json!("sidecar:poller/evil"))?;
        before.unchanged(world.api()).await?;
        victim.beat().await?;
        world.api().wait_alive("poller/victim").await
    })
    .await
}

/// W5: a flood of beats is acknowledged without effect, then ended, and Redis hears of it once a tick.
#[tokio::test]
async fn a_flood_of_beats_is_throttled_and_then_ended() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let redis = Redis::start(dir.path()).await?;
    let plan = Plan { interval: Duration::from_secs(1), ..Plan::calm() };
    world::run(plan.with(&format!("liveness = \"{}\"", redis.url())), async |world| {
        let phone = Phone::new()?;
        let identity = world.enroll_poller(&phone, "p").await?;
        let mut line = greeted(&phone, world.quic(), &identity).await?;
        let beat = |no| Up::Beat(Beat { beat_no: BeatNo(no), pace_no: PaceNo(1) });
        let flood = (1..=1_000).map(|no| encode(&beat(no))).collect::<Result<Vec<_>, _>>()?.concat();
        redis.ask("CONFIG RESETSTAT").await?;
        // The stream may be gone before all of it is taken.
        let _ = line.say_bytes(&flood).await;
        let (mut passed, mut throttled) = (0, 0);
        let code = loop {
            match line.hear().await? {
                Some(Down::Ack(ack)) if ack.retry_after_ms == 0 => passed += 1,
                Some(Down::Ack(_)) => throttled += 1,
                Some(Down::Bye(bye)) => break bye.code,
                Some(Down::Directive(_)) => {}
                Some(down) => bail!("a beat was answered with {down:?}"),
                None => bail!("no farewell"),
            }
        };
        same("the farewell", &code, &Code::Throttled)?;
        same("the close", &line.ending().await?.close, &Close::Code(Code::Throttled))?;
        ensure!((1..=7).contains(&passed) && throttled > 0, "{passed} passed, {throttled} were throttled");
        let counted = world.api().metric("rollcall_heartbeats_total", "").await?;
        same("beats that counted", &counted, &f64::from(passed))?;
        until(SOON, "Redis has it", async || same("keys", &redis.keys("rollcall:live:*").await?, &1)).await?;
        let stats = redis.ask("INFO commandstats").await?;
        let writes: u32 = stats
            .lines()
            .filter(|line| line.starts_with("cmdstat_set") || line.starts_with("cmdstat_psetex"))
            .filter_map(|line| line.split("calls=").nth(1)?.split(',').next()?.parse::<u32>().ok())
            .sum();
        ensure!(writes <= 4, "{passed} beats within a tick or two made {writes} writes:\n{stats}");
        // Throttled is not banned.
        greeted(&phone, world.quic(), &identity).await.map(drop)
    })
    .await
}

/// W6: half-open handshakes from one address keep nobody else out, and are given up.
#[tokio::test]
async fn half_open_handshakes_keep_nobody_out() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let phone = Phone::new()?;
        let (mut puppet, mut live) = world.live_poller(&phone, "p").await?;
        let memory = resident(world)?;
        let failed = world.api().metric("rollcall_handshakes_failed_total", "").await?;
        let mut flood = Flood::new(world.quic())?;
        // One address with far more than its places, then many addresses with a few each.
        let one = Flood::socket(Ipv4Addr::new(127, 9, 0, 1).into())?;
        for _ in 0..500 {
            flood.half_open(&one)?;
        }
        live.beat().await.context("a live session, under a flood from one address")?;
        live = puppet.live(&phone, world.quic()).await.context("a new one")?;
        // The newcomer did not have to wait until one of the others was given up.
        let given_up = world.api().metric("rollcall_handshakes_failed_total", "").await?;
        same("handshakes given up", &given_up, &failed)?;
        for _ in 0..1_000 {
            flood.half_open(&one)?;
        }
        for n in 0..1_500_u32 {
            let [_, _, high, low] = n.to_be_bytes();
            flood.half_open(&Flood::socket(Ipv4Addr::new(127, 10, high, low).into())?)?;
        }
        live.beat().await.context("a live session, under a flood from many addresses")?;
        puppet.live(&phone, world.quic()).await.context("a new one, under a flood from many addresses")?;
        world.api().wait_metric("rollcall_handshakes_failed_total", "", failed + 20.0).await?;
        let now = resident(world)?;
        ensure!(now < memory + 2 * FLAT_KB, "memory grew from {memory} kB to {now} kB");
        world.api().never_lost("poller/p").await
    })
    .await
}

/// W7: whoever says nothing, or says it too slowly, is not waited for; more than one stream is not given.
#[tokio::test]
async fn silence_drip_and_many_streams_are_bounded() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let phone = Phone::new()?;
        let identity = world.enroll_poller(&phone, "p").await?;
        let token = world.token(Policy::fixed(Kind::Poller, "q")).await?;
        let before = Registered::now(world.api()).await?;
        let (quic, silent) = (world.quic(), Close::Code(Code::Deadline));

        // Nothing at all after the handshake, on both protocols.
        let enrolling = || phone::enrolling(Trust::Pin(token.pin), &token.trust_domain);
        let mute_enroll = phone.dial(quic, enrolling()?).await?;
        let mute_beat = phone.dial(quic, phone::beating(&identity)?).await?;
        // A stream with nothing, and one that drips.
        let empty = async {
            let mut line = dial_to_enroll(&phone, quic, &token).await?;
            line.say_bytes(&[]).await?;
            line.ending().await
        };
        let drip = async {
            let mut line = Line::open(phone.dial(quic, phone::beating(&identity)?).await?).await?;
            let frame = encode(&Up::Hello(Puppet::new(identity.clone())?.next_hello()))?;
            let mut drops = tokio::time::interval(Duration::from_secs(1));
            for byte in &frame {
                drops.tick().await;
                if line.say_bytes(&[*byte]).await.is_err() {
                    break;
                }
            }
            line.ending().await
        };
        let (a, b, c, d) = tokio::join!(line::end_of(&mute_enroll), line::end_of(&mute_beat), empty, drip);
        same("nothing on enroll", &a?, &silent)?;
        same("nothing on beat", &b?, &silent)?;
        same("an empty stream", &c?.close, &silent)?;
        same("a dripping stream", &d?.close, &silent)?;

        // One stream and no more; no unidirectional one, no datagram.
        let line = greeted(&phone, quic, &identity).await?;
        let connection = line.connection().clone();
        always(Duration::from_millis(500), "no second stream is given", async || {
            let second = tokio::time::timeout(Duration::from_millis(50), connection.open_bi()).await;
            ensure!(second.is_err(), "a second stream was given");
            let uni = tokio::time::timeout(Duration::from_millis(50), connection.open_uni()).await;
            ensure!(uni.is_err(), "a unidirectional stream was given");
            Ok(())
        })
        .await?;
        same("the largest datagram", &connection.max_datagram_size(), &None)?;
        before.unchanged(world.api()).await
    })
    .await
}

/// W7: a peer that leaves gaps gets no more room than the window.
#[tokio::test]
async fn unread_bytes_are_bounded_by_the_window() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let phone = Phone::new()?;
        let identity = world.enroll_poller(&phone, "p").await?;
        let memory = resident(world)?;
        // Frames that promise the most and never end: each connection holds at most what the window lets in.
        let mut held = Vec::new();
        for _ in 0..50 {
            let mut line = Line::open(phone.dial(world.quic(), phone::beating(&identity)?).await?).await?;
            let length = u32::try_from(MAX_FRAME)?;
            line.say_bytes(&length.to_be_bytes()).await?;
            line.say_bytes(&vec![0; MAX_FRAME - 1]).await?;
            held.push(line);
        }
        let now = resident(world)?;
        ensure!(now < memory + FLAT_KB, "memory grew from {memory} kB to {now} kB");
        for mut line in held {
            same("the close", &line.ending().await?.close, &Close::Code(Code::Deadline))?;
        }
        Ok(())
    })
    .await
}

/// W8: who does not prove its address draws little more than three times what it sends, and beyond a
/// threshold only a Retry.
#[tokio::test]
async fn a_spoofed_flood_is_not_amplified() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let mut flood = Flood::new(world.quic())?;
        let mut sockets = Vec::new();
        // Few enough that each handshake begins.
        for n in 1..=20 {
            let socket = Flood::socket(Ipv4Addr::new(127, 20, 0, n).into())?;
            flood.half_open(&socket)?;
            sockets.push(socket);
        }
        let mut answered = 0;
        for socket in &sockets {
            // Probes of an unanswered handshake go on for a while; all of them count.
            let heard = until(SOON, "an answer", async || {
                let heard = read_all(socket)?;
                ensure!(!heard.is_empty(), "nothing yet");
                Ok(heard)
            })
            .await?;
            answered += heard.iter().map(Vec::len).sum::<usize>();
        }
        always(Duration::from_secs(6), "the answers stay within bounds", async || {
            for socket in &sockets {
                answered += read_all(socket)?.iter().map(Vec::len).sum::<usize>();
            }
            // quinn ends the datagram that it has begun when the limit is reached (quinn issue 1082), so that
            // each address may draw part of one datagram more.
            let most = 3 * flood.sent() + 1_200 * sockets.len();
            ensure!(answered <= most, "{answered} bytes, where {most} are allowed");
            Ok(())
        })
        .await?;
        // Far more than can begin: the rest must prove their addresses, which costs the collector nothing.
        let many = Flood::socket(Ipv4Addr::new(127, 21, 0, 1).into())?;
        for _ in 0..900 {
            flood.half_open(&many)?;
        }
        until(SOON, "a Retry", async || {
            let retries = read_all(&many)?.iter().filter(|datagram| is_retry(datagram)).count();
            ensure!(retries > 0, "none yet");
            Ok(())
        })
        .await?;
        let phone = Phone::new()?;
        world.live_poller(&phone, "p").await.map(drop)
    })
    .await
}

/// A long header of the type Retry, in version 1 (RFC 9000 §17.2.5).
fn is_retry(datagram: &[u8]) -> bool {
    datagram.first().is_some_and(|first| first & 0xf0 == 0xf0)
}

/// W10
#[tokio::test]
async fn replayed_beats_touch_no_lease() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let phone = Phone::new()?;
        let (_, mut live) = world.live_poller(&phone, "p").await?;
        let counted = world.api().metric("rollcall_heartbeats_total", "").await?;
        live.beat_no(BeatNo(10), PaceNo(1)).await?;
        for old in [10, 9, 1, 10] {
            live.line.say(&Up::Beat(Beat { beat_no: BeatNo(old), pace_no: PaceNo(1) })).await?;
        }
        world.api().wait_metric("rollcall_heartbeats_replayed_total", "", 4.0).await?;
        same("beats", &world.api().metric("rollcall_heartbeats_total", "").await?, &(counted + 1.0))?;
        let event = world.api().wait_audit("beat.replayed", "poller/p").await?;
        same("the event", &event["details"]["evidence"]["beat_no"], &json!(10))?;
        same("events", &world.api().audit("action=beat.replayed").await?.len(), &1)?;
        live.beat_no(BeatNo(11), PaceNo(1)).await.map(drop)
    })
    .await
}

/// W11: noise and cut packets on the port.
#[tokio::test]
async fn noise_disturbs_nobody() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let phone = Phone::new()?;
        let relay = Relay::start(world.quic()).await?;
        let (mut puppet, mut live) = world.live_poller(&phone, "p").await?;
        let before = Registered::now(world.api()).await?;
        puppet.live(&phone, relay.addr()).await?;
        let noise = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let mut chance = 0x2545_f491_4f6c_dd1d_u64;
        let mut draw = || {
            chance ^= chance << 13;
            chance ^= chance >> 7;
            chance ^= chance << 17;
            chance
        };
        for n in 0..2_000_u64 {
            let length = usize::try_from(draw() % 1_400)?;
            let mut packet: Vec<u8> = (0..length).map(|_| draw().to_le_bytes()[0]).collect();
            // Half of them look like a packet that begins a connection.
            if n % 2 == 0 && packet.len() > 30 {
                packet.splice(..7, [0xc3, 0, 0, 0, 1, 8, 1]);
            }
            noise.send_to(&packet, world.quic())?;
        }
        // Real first flights, cut and bent.
        for datagram in relay.first_flight() {
            for _ in 0..40 {
                let mut packet = datagram.clone();
                packet.truncate(usize::try_from(draw())? % (packet.len() + 1));
                if let Some(byte) = packet.get_mut(usize::try_from(draw())? % datagram.len().max(1)) {
                    *byte ^= 1 << (draw() % 8);
                }
                noise.send_to(&packet, world.quic())?;
            }
        }
        puppet.live(&phone, world.quic()).await?.beat().await?;
        within(SOON, "the session of before is superseded", live.line.ending()).await??;
        before.unchanged(world.api()).await?;
        world.api().never_lost("poller/p").await
    })
    .await
}

/// Handshakes whose transport parameters are cut short or nonsense (RUSTSEC-2026-0037).
#[tokio::test]
async fn bent_transport_parameters_end_the_handshake() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let phone = Phone::new()?;
        let failed = world.api().metric("rollcall_handshakes_failed_total", "").await?;
        let mut flood = Flood::new(world.quic())?;
        let mut tried = 0_u32;
        for cut in [0, 1, 2, 3, 5, 9, 17, 33] {
            let socket = Flood::socket(Ipv4Addr::new(127, 30, 0, 1).into())?;
            flood.bent(&socket, cut)?;
            tried += 1;
            until(SOON, "an answer", async || {
                ensure!(!read_all(&socket)?.is_empty(), "nothing yet");
                Ok(())
            })
            .await
            .with_context(|| format!("after {cut} bytes"))?;
        }
        world.api().wait_metric("rollcall_handshakes_failed_total", "", failed + f64::from(tried)).await?;
        world.live_poller(&phone, "p").await.map(drop)
    })
    .await
}

//! The same abuse over TCP, where a connection costs a descriptor before anything is said: C5, C8, C13, L1, L2, W1, W6, W7.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use rollcall_common::{
    code::Code,
    id::{BeatNo, Kind, PaceNo},
    identity::tls::{Trust, provider},
    time::{Clock as _, SystemClock},
    wire::{
        ALPN_BEAT, MAX_FRAME, SERVER_NAME,
        codec::encode,
        message::{Beat, Goodbye, GoodbyeReason, Up},
    },
};
use rollcall_tests::{
    peer::{Ask, Cable, Cut, Key, Phone, Puppet, SOON, phone},
    until::{same, until, within},
    world::{self, Plan, Policy, World},
};
use rustls::pki_types::ServerName;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::scene::Registered;

/// Bytes on a fresh connection; it must end.
async fn thrown_out(to: SocketAddr, bytes: &[u8]) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(to).await?;
    stream.write_all(bytes).await?;
    let mut said = Vec::new();
    // Cut off is as good as ended.
    let _ = within(SOON, "it is thrown out", stream.read_to_end(&mut said)).await?;
    Ok(said)
}

async fn asked(world: &World, outcome: &str) -> Result<f64> {
    let labels = format!("lane=\"tcp\",outcome=\"{outcome}\"");
    world.api().metric("rollcall_admissions_total", &labels).await
}

/// C5, C8, T1: enrollment over TCP is as strict, and what it gives beats there.
#[tokio::test]
async fn an_enrollment_over_tcp_is_bound_to_its_connection() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let token = world.token(Policy::fixed(Kind::Poller, "p")).await?;
        let (mut first, mut second) =
            (Cable::dial_to_enroll(world.quic(), &token).await?, Cable::dial_to_enroll(world.quic(), &token).await?);
        let before = Registered::now(world.api()).await?;
        let mut ask = Ask::poller("p")?;
        // A proof for another connection, as a relay would bring it.
        ask.proof = Some(first.proof(&ask.key, &ask.key.csr()?)?);
        same("a proof of another connection", &second.enroll(&token, &ask).await?.err(), &Some(Code::Denied))?;
        before.unchanged(world.api()).await?;
        ask.proof = None;
        let identity = first.enroll(&token, &ask).await?.ok().context("refused")?;
        let mut puppet = Puppet::new(identity)?;
        let roots = Trust::Bundle(puppet.identity.roots.clone());
        let mut cable = Cable::live(world.quic(), &mut puppet).await?;
        world.api().wait_alive("poller/p").await?;
        same("shown", &world.api().service("poller/p").await?["transport"], &json!("tcp"))?;
        same("counted", &world.api().metric("rollcall_connections", "transport=\"tcp\"").await?, &1.0)?;
        // Each protocol takes its own frames only.
        cable.beat(2).await?;
        let mut other = Cable::dial_to_enroll(world.quic(), &token).await?;
        other.say(&Up::Beat(Beat { beat_no: BeatNo(1), pace_no: PaceNo(1) })).await?;
        same("a beat to enroll", &other.ending().await?, &Cut::Bye(Code::Protocol))?;
        // Without a certificate nobody beats.
        let mut tls = phone::enrolling(roots, &token.trust_domain)?;
        tls.alpn_protocols = vec![ALPN_BEAT.to_vec()];
        let mut bare = Cable::dial(world.quic(), tls.clone()).await?;
        same("no certificate", &bare.ending().await?, &Cut::Bye(Code::ClientCertRequired))?;
        tls.alpn_protocols = vec![];
        let mut none = Cable::dial(world.quic(), tls).await?;
        same("no protocol", &none.ending().await?, &Cut::Bye(Code::Protocol))?;
        // A goodbye is answered, and known.
        cable.say(&Up::Bye(Goodbye { reason: GoodbyeReason::Stop, back_in_secs: None })).await?;
        cable.hang_up().await?;
        same("the farewell", &cable.ending().await?, &Cut::Bye(Code::Goodbye))?;
        world.api().wait_row("poller/p", "stopped").await.map(drop)
    })
    .await
}

/// L1, L2: a revocation ends a live connection within a second, with the same code, and its certificate with alert 44.
#[tokio::test]
async fn a_revocation_reaches_over_tcp() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let phone = Phone::new()?;
        let mut puppet = Puppet::new(world.enroll_poller(&phone, "p").await?)?;
        let mut taken = Vec::new();
        // A busy machine may hold a process up: the best of a few counts.
        while taken.len() < 5 && taken.iter().all(|took| *took >= Duration::from_secs(1)) {
            let mut cable = Cable::live(world.quic(), &mut puppet).await?;
            world.api().wait_alive("poller/p").await?;
            let asked = SystemClock.now().boot;
            world.api().act("poller/p", "revoke").await?;
            same("the farewell", &cable.ending().await?, &Cut::Bye(Code::Revoked))?;
            taken.push(SystemClock.now().boot.since(asked));
            let mut again = Cable::dial(world.quic(), phone::beating(&puppet.identity)?).await?;
            same("the alert", &again.ending().await?, &Cut::Alert(44))?;
            world.api().act("poller/p", "unrevoke").await?;
        }
        ensure!(taken.iter().any(|took| *took < Duration::from_secs(1)), "{taken:?}");
        Ok(())
    })
    .await
}

/// C13, W6, W7: silence, drips, garbage, HTTP, TLS 1.2 and endless greetings end, and keep nobody out.
#[tokio::test]
async fn strangers_on_the_tcp_port_are_bounded_and_keep_nobody_out() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let phone = Phone::new()?;
        let mut puppet = Puppet::new(world.enroll_poller(&phone, "p").await?)?;
        let mut live = Cable::live(world.quic(), &mut puppet).await?;
        let (_, mut bystander) = world.live_poller(&phone, "bystander").await?;
        let mut other = Puppet::new(world.enroll_poller(&phone, "q").await?)?;
        Cable::live(world.quic(), &mut other).await?;
        world.api().wait_alive("poller/q").await?;
        let before = Registered::now(world.api()).await?;
        let to = world.quic();
        // More than one address may have: its own oldest ones yield.
        let mut silent = Vec::new();
        for _ in 0..200 {
            silent.push(TcpStream::connect(to).await?);
        }
        until(SOON, "the oldest yield", async || {
            let out = asked(world, "crowded_out").await?;
            ensure!(out >= 72.0, "{out} yielded");
            Ok(())
        })
        .await?;
        // Others are served meanwhile, over either, those who come now too.
        live.beat(2).await?;
        bystander.beat().await?;
        Cable::live(to, &mut other).await?.beat(2).await?;
        // A record that drips: one byte now and then is no handshake.
        let mut drip = TcpStream::connect(to).await?;
        drip.write_all(&[22, 3, 1, 0x0f, 0xff]).await?;
        let late = asked(world, "late").await?;
        until(SOON, "the silent and the drips are given up", async || {
            // The collector may have gone already.
            let _ = drip.write_all(&[1]).await;
            let now = asked(world, "late").await?;
            ensure!(now >= late + 100.0, "{now} were late");
            Ok(())
        })
        .await?;
        for stream in &mut silent {
            let _ = within(SOON, "a silent one ends", stream.read(&mut [0; 8])).await?;
        }
        thrown_out(to, b"GET / HTTP/1.1\r\nHost: collector\r\n\r\n").await?;
        thrown_out(to, &[0x2a; 4_096]).await?;
        thrown_out(to, &[0; 64]).await?;
        // A greeting of TLS that does not end.
        let endless = [&[22, 3, 1, 0x40, 0][..], &[1, 0, 0x3f, 0xfc, 3, 3], &[7; 16_384]].concat();
        thrown_out(to, &endless).await?;
        // TLS 1.2 is told that its version is over.
        let tls = rustls::ClientConfig::builder_with_provider(Arc::new((*provider()).clone()))
            .with_protocol_versions(&[&rustls::version::TLS12])?
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let stream = TcpStream::connect(to).await?;
        let name = ServerName::try_from(SERVER_NAME)?;
        let refused = within(SOON, "TLS 1.2", TlsConnector::from(Arc::new(tls)).connect(name, stream)).await?;
        let words = refused.err().context("TLS 1.2 was spoken")?.to_string();
        ensure!(words.contains("ProtocolVersion"), "{words}");
        live.beat(3).await?;
        bystander.beat().await?;
        until(SOON, "what was said is counted", async || {
            ensure!(asked(world, "nonsense").await? >= 3.0, "not yet");
            Ok(())
        })
        .await?;
        before.unchanged(world.api()).await
    })
    .await
}

/// W1, W2, W5, W7: frames that lie, and a peer that floods and never reads.
#[tokio::test]
async fn lies_and_floods_over_tcp_end_the_session() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let phone = Phone::new()?;
        let mut puppet = Puppet::new(world.enroll_poller(&phone, "p").await?)?;
        let over = u32::try_from(MAX_FRAME)? + 1;
        let cases = [
            (u32::MAX.to_be_bytes().to_vec(), Code::FrameTooLarge),
            (over.to_be_bytes().to_vec(), Code::FrameTooLarge),
            (vec![0; 4], Code::Protocol),
            (vec![0, 0, 0, 2, 200, 1], Code::Protocol),
            (vec![0, 0, 0, 9, 3], Code::Deadline),
        ];
        for (bytes, code) in cases {
            let mut cable = Cable::live(world.quic(), &mut puppet).await?;
            cable.say_bytes(&bytes).await?;
            same("the farewell", &cable.ending().await?, &Cut::Bye(code))?;
        }
        // It never reads: what it is answered stays with the kernel, and the flood ends it.
        let closed = || world.api().metric("rollcall_connections_closed_total", "code=\"THROTTLED\"");
        let before = closed().await?;
        let mut deaf = Cable::live(world.quic(), &mut puppet).await?;
        let flood = (2..2_000)
            .map(|no| encode(&Up::Beat(Beat { beat_no: BeatNo(no), pace_no: PaceNo(1) })))
            .collect::<Result<Vec<_>, _>>()?
            .concat();
        // The connection may be gone before all of it is taken.
        let _ = deaf.say_bytes(&flood).await;
        until(SOON, "it is thrown out", async || {
            ensure!(closed().await? > before, "not yet");
            Ok(())
        })
        .await?;
        until(SOON, "and gone", async || {
            same("connections", &world.api().metric("rollcall_connections", "transport=\"tcp\"").await?, &0.0)
        })
        .await?;
        Cable::live(world.quic(), &mut puppet).await.map(drop)
    })
    .await
}

/// One identity has one connection, whatever carries it: the newer one stays.
#[tokio::test]
async fn a_newer_connection_takes_the_place_over_either_transport() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let phone = Phone::new()?;
        let (mut puppet, quic) = world.live_poller(&phone, "p").await?;
        let mut tcp = Cable::live(world.quic(), &mut puppet).await?;
        let ending = quic.ending().await?;
        same("the older one's farewell", &ending.bye.map(|bye| bye.code), &Some(Code::Superseded))?;
        let mut back = puppet.live(&phone, world.quic()).await?;
        back.beat().await?;
        same("the older one's farewell", &tcp.ending().await?, &Cut::Bye(Code::Superseded))?;
        same("shown", &world.api().service("poller/p").await?["transport"], &json!("quic"))?;
        // A renewal works on either.
        back.renew(&Key::generate()?).await?.ok().context("no renewal").map(drop)
    })
    .await
}

//! Attacks on the handshake: C3 to C13. What a certificate request may wish for is tested beside the CA.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SanType};
use rollcall_common::{
    code::Code,
    id::{BeatNo, Kind, PaceNo},
    identity::tls::{CollectorVerifier, Trust, enroll_config},
    time::{Clock as _, ManualClock, SystemClock, Timestamp},
    token::Token,
    wire::{
        ALPN_BEAT, MAX_FRAME,
        message::{Beat, Up},
    },
};
use rollcall_tests::{
    fleet::Fleet,
    forge::{Dates, Forger, Leaf, self_signed},
    impostor::Impostor,
    net::Relay,
    peer::{Ask, Close, Identity, Key, Line, Phone, Puppet, SOON, dial_to_enroll, enroll, enrollment, line, phone},
    until::{always, same, until, within},
    world::{self, Plan, Policy, TRUST_DOMAIN, World},
};
use rustls::{
    DigitallySignedStruct, Error as TlsError, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::net::UdpSocket;

use super::scene::{Registered, refusals, refused};

type Chain = Vec<CertificateDer<'static>>;

/// TLS alert `certificate_revoked`.
const REVOKED: Close = Close::Alert(44);
/// TLS alert `no_application_protocol`.
const NO_PROTOCOL: Close = Close::Alert(120);
const YEAR_MS: i64 = 365 * 86_400_000;

/// C1, C2: the whole way, to the certificate that the sidecar holds in the end.
#[tokio::test]
async fn a_request_gets_the_tokens_identity_and_no_wish() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let token = world.token(Policy::fixed(Kind::Poller, "p")).await?;
        let mut ask = Ask::poller("p")?;
        let mut wishes = CertificateParams::new(vec!["collector.rollcall.invalid".to_owned()])?;
        wishes
            .subject_alt_names
            .push(SanType::URI(format!("spiffe://{TRUST_DOMAIN}/collector/main").as_str().try_into()?));
        wishes.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        wishes.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        ask.csr = Some(ask.key.wish(wishes)?);
        let phone = Phone::new()?;
        let identity = enroll(&phone, world.quic(), &token, &ask).await?.identity()?;
        let leaf = identity.leaf()?;
        same("the name", &leaf.peer.to_string(), &format!("spiffe://{TRUST_DOMAIN}/poller/p"))?;
        same("the key", &leaf.key, &ask.key.pin())?;
        // It signs for nobody, and serves nobody: see C6 and C10.
        Puppet::new(identity)?.live(&phone, world.quic()).await?.beat().await.map(drop)
    })
    .await
}

/// C3
#[tokio::test]
async fn a_malformed_request_is_told_so() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let token = world.token(Policy::fixed(Kind::Poller, "p")).await?;
        let mut ask = Ask::poller("p")?;
        let honest = ask.key.csr()?;
        let mut forged = honest.clone();
        *forged.last_mut().context("an empty request")? ^= 1;
        let trailing = [honest.as_slice(), &[0]].concat();
        let p384 = Key::generate_for(&PKCS_ECDSA_P384_SHA384)?.csr()?;
        let ed25519 = Key::generate_for(&PKCS_ED25519)?.csr()?;
        let long = vec![0x30; 8 * 1024];
        for csr in [forged, trailing, p384, ed25519, long, Vec::new()] {
            ask.csr = Some(csr);
            ask.proof = Some(vec![0; 70]);
            refused(world, &token, &ask, Code::CsrInvalid).await?;
        }
        // A megabyte is no frame at all, whatever its sender says about it.
        let before = Registered::now(world.api()).await?;
        let mut line = dial_to_enroll(&Phone::new()?, world.quic(), &token).await?;
        let length = u32::try_from(1 << 20)?;
        line.say_bytes(&length.to_be_bytes()).await?;
        ensure!(usize::try_from(length)? > MAX_FRAME, "not beyond the limit");
        same("the close", &line.ending().await?.close, &Close::Code(Code::FrameTooLarge))?;
        before.unchanged(world.api()).await
    })
    .await
}

/// C4
#[tokio::test]
async fn somebody_elses_key_gets_no_certificate() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let phone = Phone::new()?;
        let (puppet, mut live) = world.live_poller(&phone, "holder").await?;
        let token = world.token(Policy::fixed(Kind::Poller, "p")).await?;
        let mut ask = Ask::poller("p")?;
        ask.key = puppet.identity.key.clone();
        refused(world, &token, &ask, Code::KeyInUse).await?;
        ask.key = Forger::stolen(&world.state())?.key()?;
        refused(world, &token, &ask, Code::KeyInUse).await?;
        live.beat().await.map(drop)
    })
    .await
}

/// C5: a proof that was made for another connection, as a relay would show it.
#[tokio::test]
async fn a_proof_of_another_connection_is_denied() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let token = world.token(Policy::fixed(Kind::Poller, "p")).await?;
        let phone = Phone::new()?;
        let mut ask = Ask::poller("p")?;
        let elsewhere = dial_to_enroll(&phone, world.quic(), &token).await?;
        ask.proof = Some(elsewhere.proof(&ask.key, &ask.key.csr()?)?);
        refused(world, &token, &ask, Code::Denied).await?;
        ask.proof = None;
        enroll(&phone, world.quic(), &token, &ask).await?.identity().map(drop)
    })
    .await
}

/// C6: the real sidecar tells a false collector not one byte.
#[tokio::test]
async fn a_sidecar_tells_a_false_collector_nothing() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let real = world.token(Policy::fixed(Kind::Poller, "victim")).await?;
        let domain = &real.trust_domain;
        let collector = Leaf::collector(&format!("spiffe://{domain}/collector/main"));
        let own = Forger::root(domain, Dates::now())?;
        let key = Key::generate()?;
        let wrong_pin = (own.forge(&collector, &key)?, key.clone(), real.pin, "pinned key");
        let leafs_pin = (own.forge(&collector, &key)?, key.clone(), key.pin(), "pinned key");
        let no_uri = Leaf { uris: Vec::new(), dns: vec!["collector.rollcall.invalid".into()], ..collector.clone() };
        let nameless = (own.forge(&no_uri, &key)?, key.clone(), own.pin()?, "not a collector");
        let poller = Leaf::collector(&format!("spiffe://{domain}/poller/p"));
        let other_party = (own.forge(&poller, &key)?, key.clone(), own.pin()?, "not a collector");
        let elsewhere = Leaf::collector("spiffe://other.test/collector/main");
        let other_domain = (own.forge(&elsewhere, &key)?, key, own.pin()?, "not a collector");
        let sidecar = world.enroll_poller(&Phone::new()?, "sidecar").await?;
        let chain = sidecar.chain.iter().chain(&sidecar.roots).cloned().collect();
        let sidecars = (chain, sidecar.key.clone(), real.pin, "does not chain");
        let cases = [wrong_pin, leafs_pin, nameless, other_party, other_domain, sidecars];
        for (n, (chain, key, pin, words)) in cases.into_iter().enumerate() {
            let impostor = Impostor::start(chain, &key)?;
            let said = fooled(world, &format!("fooled-{n}"), &Token { pin, ..real.clone() }, &impostor).await?;
            ensure!(said.contains(words), "case {n}: nothing about {words:?}");
        }
        same("pollers", &world.api().list("pollers").await?.len(), &1)
    })
    .await
}

/// C7: an impostor's root that is over or has not begun, and both times are named.
#[tokio::test]
async fn a_root_out_of_its_time_is_named_with_both_times() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let real = world.token(Policy::fixed(Kind::Poller, "victim")).await?;
        let collector = Leaf::collector(&format!("spiffe://{}/collector/main", real.trust_domain));
        for (name, dates, told) in [("over", Dates::over(), "ended at"), ("ahead", Dates::ahead(), "begins at")] {
            let root = Forger::root(&real.trust_domain, dates)?;
            let key = Key::generate()?;
            let impostor = Impostor::start(root.forge(&collector, &key)?, &key)?;
            let token = Token { pin: root.pin()?, ..real.clone() };
            let said = fooled(world, name, &token, &impostor).await?;
            let line = said.lines().find(|line| line.contains("CLOCK_SKEW")).context("no word of the clock")?;
            ensure!(line.contains(told) && line.contains("this host's clock says"), "not both times: {line}");
        }
        Ok(())
    })
    .await
}

/// C7: a host whose clock is a year off, against the real collector.
#[tokio::test]
async fn a_host_clock_a_year_off_is_named_with_both_times() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let token = world.token(Policy::fixed(Kind::Poller, "p")).await?;
        let phone = Phone::new()?;
        for (offset, told) in [(YEAR_MS, "ended at"), (-YEAR_MS, "begins at")] {
            let clock = ManualClock::new(Timestamp(SystemClock.now().wall.0.saturating_add(offset)));
            let tls = enroll_config(Trust::Pin(token.pin), token.trust_domain.clone(), Arc::new(clock))?;
            let Err(error) = phone.try_dial(world.quic(), phone::quic(tls)?).await? else { bail!("it was trusted") };
            let words = error.to_string();
            ensure!(words.contains("CLOCK_SKEW") && words.contains(told), "{words}");
        }
        Ok(())
    })
    .await
}

/// Lets the real sidecar dial a false collector; gives what it said once it has given up a first time.
async fn fooled(world: &mut World, name: &str, token: &Token, impostor: &Impostor) -> Result<String> {
    let token = Token { addresses: vec![impostor.addr().into()], ..token.clone() };
    let mut sidecar = world.sidecar(name, "kind = \"poller\"\nid = \"victim\"")?;
    sidecar.give_token(&token.reveal())?;
    sidecar.start()?;
    until(SOON, "the sidecar dials twice, or gives up", async || {
        let over = sidecar.exited()?.is_some();
        ensure!(impostor.dials() > 1 || (over && impostor.dials() > 0), "{} dials, ended: {over}", impostor.dials());
        Ok(())
    })
    .await?;
    same("bytes told to the false collector", &impostor.bytes(), &0)?;
    sidecar.kill9().await?;
    sidecar.said()
}

/// C8
#[tokio::test]
async fn each_protocol_takes_only_its_own_frames() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let token = world.token(Policy::fixed(Kind::Poller, "p")).await?;
        let phone = Phone::new()?;
        let mut bare = phone::enrolling(Trust::Pin(token.pin), &token.trust_domain)?;
        bare.alpn_protocols = vec![ALPN_BEAT.to_vec()];
        // Without the root in its chain the collector cannot be pinned: trust it by its root.
        let roots = world.enroll_poller(&phone, "q").await?.roots;
        bare.dangerous().set_certificate_verifier(Arc::new(CollectorVerifier::new(
            Trust::Bundle(roots),
            token.trust_domain.clone(),
        )));
        let refusals_before = refusals(world.api(), Code::ClientCertRequired).await?;
        let connection = phone.dial(world.quic(), bare).await?;
        same("the close", &line::end_of(&connection).await?, &Close::Code(Code::ClientCertRequired))?;
        ensure!(refusals(world.api(), Code::ClientCertRequired).await? > refusals_before, "it was not counted");

        let mut line = dial_to_enroll(&phone, world.quic(), &token).await?;
        line.say(&Up::Beat(Beat { beat_no: BeatNo(1), pace_no: PaceNo(1) })).await?;
        let ending = line.ending().await?;
        same("the close", &ending.close, &Close::Code(Code::Protocol))?;

        // And the other way round: an enrollment on the heartbeat's protocol.
        let puppet = world.live_poller(&phone, "r").await?.0;
        let mut line = Line::open(phone.dial(world.quic(), phone::beating(&puppet.identity)?).await?).await?;
        let enroll = enrollment(&line, &token, &Ask::poller("p")?)?;
        line.say(&Up::Enroll(Box::new(enroll))).await?;
        same("the close", &line.ending().await?.close, &Close::Code(Code::Protocol))?;
        let pollers = world.api().list("pollers").await?;
        same("pollers", &pollers.len(), &2)
    })
    .await
}

/// C9
#[tokio::test]
async fn an_unknown_protocol_is_no_protocol() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let token = world.token(Policy::fixed(Kind::Poller, "p")).await?;
        let phone = Phone::new()?;
        for alpn in [vec![], vec![b"h3".to_vec()], vec![b"rollcall-beat/999".to_vec()]] {
            let mut tls = phone::enrolling(Trust::Pin(token.pin), &token.trust_domain)?;
            tls.alpn_protocols = alpn.clone();
            let failed = world.api().metric("rollcall_handshakes_failed_total", "").await?;
            let Err(error) = phone.try_dial(world.quic(), phone::quic(tls)?).await? else {
                bail!("{alpn:?} was accepted");
            };
            same("the end", &Close::from(&error), &NO_PROTOCOL)?;
            world.api().wait_metric("rollcall_handshakes_failed_total", "", failed + 1.0).await?;
        }
        Ok(())
    })
    .await
}

/// C10
#[tokio::test]
async fn certificates_that_are_not_ours_are_refused() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let phone = Phone::new()?;
        let (victim, _live) = world.live_poller(&phone, "victim").await?;
        let living = Fleet::start(vec![victim.identity.clone()], world.quic())?;
        until(SOON, "the victim lives", async || same("it lives", &(living.acked() > 0), &true)).await?;
        let evil = world.enroll_poller(&phone, "evil").await?;
        let domain = &victim.identity.trust_domain;
        let name = format!("spiffe://{domain}/poller/victim");
        let honest = Leaf::sidecar(&name);
        let key = Key::generate()?;
        let (foreign, through_leaf) = (Forger::root(domain, Dates::now())?, Forger::with_leaf_of(&evil)?);
        let stolen = Forger::stolen(&world.state())?;
        let uris = |uris: &[&str]| Leaf { uris: uris.iter().map(|uri| (*uri).to_owned()).collect(), ..honest.clone() };
        let alert = |chain| Ok::<_, anyhow::Error>((chain, None));
        let traversal = format!("spiffe://{domain}/poller/../collector/main");
        let collector = format!("spiffe://{domain}/collector/main");
        let unknown = format!("spiffe://{domain}/poller/nobody");
        let cases: Vec<(&str, (Chain, Option<Code>))> = vec![
            ("a foreign CA", alert(foreign.forge(&honest, &key)?)?),
            ("self-signed", alert(self_signed(&honest, &key)?)?),
            ("through a sidecar's leaf", alert(through_leaf.forge(&honest, &key)?)?),
            ("two URIs", alert(stolen.forge(&uris(&[&name, &unknown]), &key)?)?),
            ("no name", alert(stolen.forge(&uris(&[]), &key)?)?),
            ("a DNS name too", alert(stolen.forge(&Leaf { dns: vec!["a.test".into()], ..honest.clone() }, &key)?)?),
            ("another trust domain", alert(stolen.forge(&uris(&["spiffe://other.test/poller/victim"]), &key)?)?),
            ("path traversal", alert(stolen.forge(&uris(&[&traversal]), &key)?)?),
            ("a collector's name", alert(stolen.forge(&uris(&[&collector]), &key)?)?),
            ("a server's purpose", alert(stolen.forge(&Leaf::collector(&name), &key)?)?),
            ("over", alert(stolen.forge(&Leaf { dates: Dates::over(), ..honest.clone() }, &key)?)?),
            ("not begun", alert(stolen.forge(&Leaf { dates: Dates::ahead(), ..honest.clone() }, &key)?)?),
            ("a serial that was never given", (stolen.forge(&honest, &key)?, Some(Code::SerialRefused))),
            ("nobody's name", (stolen.forge(&uris(&[&unknown]), &key)?, Some(Code::UnknownIdentity))),
        ];
        let before = Registered::now(world.api()).await?;
        for (what, (chain, code)) in cases {
            let count = async |api: &world::Api| match code {
                None => api.metric("rollcall_handshakes_failed_total", "").await,
                Some(code) => refusals(api, code).await,
            };
            let counted = count(world.api()).await?;
            let forged = Identity { chain, key: key.clone(), ..victim.identity.clone() };
            let ending = match Puppet::new(forged)?.dial(&phone, world.quic()).await? {
                Ok(_) => bail!("{what}: it was greeted"),
                Err(ending) => ending,
            };
            let fits = match (code, ending.close) {
                (None, Close::Alert(_)) => true,
                (Some(code), close) => close == Close::Code(code),
                (None, _) => false,
            };
            ensure!(fits, "{what}: it ended with {ending:?}");
            until(SOON, "it is counted", async || {
                ensure!(count(world.api()).await? > counted, "{what}: it is not");
                Ok(())
            })
            .await?;
            ensure!(living.greeted() == 1 && living.late() == 0, "{what}: the victim suffers");
        }
        before.unchanged(world.api()).await
    })
    .await
}

/// A verifier that counts how often it is asked: once a full handshake, never for a resumed one.
#[derive(Debug)]
struct Counting {
    inner: CollectorVerifier,
    asked: AtomicUsize,
}

impl ServerCertVerifier for Counting {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, TlsError> {
        self.asked.fetch_add(1, SeqCst);
        self.inner.verify_server_cert(leaf, chain, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, TlsError> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, TlsError> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// A client that would resume, and send early data, if only it were let.
fn eager(identity: &Identity) -> Result<(rustls::ClientConfig, Arc<Counting>)> {
    let trust = Trust::Bundle(identity.roots.clone());
    let inner = CollectorVerifier::new(trust, identity.trust_domain.clone());
    let counting = Arc::new(Counting { inner, asked: AtomicUsize::new(0) });
    let mut tls = phone::beating(identity)?;
    tls.dangerous().set_certificate_verifier(Arc::clone(&counting) as _);
    tls.resumption = Resumption::in_memory_sessions(8);
    tls.enable_early_data = true;
    Ok((tls, counting))
}

/// C11, L2: every handshake is a full one, so that a revoked certificate ends at the next.
#[tokio::test]
async fn nothing_is_resumed_and_a_revoked_certificate_ends() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let phone = Phone::new()?;
        let identity = world.enroll_poller(&phone, "p").await?;
        let mut puppet = Puppet::new(identity.clone())?;
        let (tls, counting) = eager(&identity)?;
        for _ in 0..2 {
            let line = Line::open(phone.dial(world.quic(), tls.clone()).await?).await?;
            let Ok(mut live) = line.greet(puppet.next_hello()).await? else { bail!("it was not greeted") };
            live.beat().await?;
            live.goodbye().await?;
        }
        same("full handshakes", &counting.asked.load(SeqCst), &2)?;

        // The same session store on the other protocol, without a certificate.
        let mut bare = phone::enrolling(Trust::Bundle(identity.roots.clone()), &identity.trust_domain)?;
        bare.dangerous().set_certificate_verifier(Arc::clone(&counting) as _);
        bare.resumption = tls.resumption.clone();
        phone.dial(world.quic(), bare.clone()).await?;
        bare.alpn_protocols = vec![ALPN_BEAT.to_vec()];
        let connection = phone.dial(world.quic(), bare).await?;
        same("the close", &line::end_of(&connection).await?, &Close::Code(Code::ClientCertRequired))?;
        same("full handshakes", &counting.asked.load(SeqCst), &4)?;

        world.api().act("poller/p", "revoke").await?;
        let before = Registered::now(world.api()).await?;
        let connection = phone.dial(world.quic(), tls).await?;
        same("the close", &line::end_of(&connection).await?, &REVOKED)?;
        same("full handshakes", &counting.asked.load(SeqCst), &5)?;
        before.unchanged(world.api()).await
    })
    .await
}

/// C12
#[tokio::test]
async fn early_data_is_not_taken_and_a_replayed_first_flight_does_nothing() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let phone = Phone::new()?;
        let identity = world.enroll_poller(&phone, "p").await?;
        let (tls, _) = eager(&identity)?;
        let config = phone::quic(tls)?;
        phone.dial_as(world.quic(), config.clone()).await?;
        let connecting = phone.endpoint().connect_with(config, world.quic(), rollcall_common::wire::SERVER_NAME)?;
        let Err(connecting) = connecting.into_0rtt() else { bail!("early data was offered") };
        within(SOON, "the handshake", connecting).await??;

        let relay = Relay::start(world.quic()).await?;
        let token = world.token(Policy::fixed(Kind::Poller, "q")).await?;
        enroll(&phone, relay.addr(), &token, &Ask::poller("q")?).await?.identity()?;
        let before = Registered::now(world.api()).await?;
        let elsewhere = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        replay(&relay, &elsewhere, world.quic()).await?;
        // Sent later and answered: so the replay has been looked at.
        enroll(&phone, world.quic(), &token, &Ask::poller("q")?).await?.refusal()?;
        before.unchanged(world.api()).await?;
        // A collector that has forgotten the connection takes it for a new one, which never comes to an end.
        world.crash_collector().await?;
        replay(&relay, &elsewhere, world.quic()).await?;
        world.api().wait_metric("rollcall_handshakes_failed_total", "", 1.0).await?;
        same("enrollments", &world.api().metric("rollcall_enrollments_total", "").await?, &0.0)?;
        before.unchanged(world.api()).await
    })
    .await
}

async fn replay(relay: &Relay, from: &UdpSocket, to: SocketAddr) -> Result<()> {
    for datagram in relay.first_flight() {
        from.send_to(&datagram, to).await?;
    }
    Ok(())
}

/// C13: QUIC version 1 and nothing else. TLS 1.2 cannot even be asked for: QUIC has no such handshake.
#[tokio::test]
async fn other_quic_versions_are_told_the_one() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let token = world.token(Policy::fixed(Kind::Poller, "p")).await?;
        for version in [0x6b33_43cf_u32, 0xff00_001d, 0xff00_0022, 0x0000_0002, 0xdead_beef] {
            let offered = negotiate(world.quic(), version).await.with_context(|| format!("version {version:#x}"))?;
            // One more may be offered that means nothing (RFC 9000 §15).
            let real: Vec<u32> = offered.into_iter().filter(|version| version & 0x0f0f_0f0f != 0x0a0a_0a0a).collect();
            same("the versions offered", &real, &vec![1])?;
        }
        let phone = Phone::new()?;
        let mut draft = phone::quic(phone::enrolling(Trust::Pin(token.pin), &token.trust_domain)?)?;
        draft.version(0xff00_001d);
        let Err(error) = phone.try_dial(world.quic(), draft).await? else { bail!("a draft was accepted") };
        same("the end", &Close::from(&error), &Close::Version)?;
        always(Duration::from_millis(200), "the collector lives", async || {
            world.api().get("/livez").await?.expect(200).map(drop)
        })
        .await
    })
    .await
}

/// Asks for a QUIC version with a bare long header; gives the versions that are offered instead.
async fn negotiate(to: SocketAddr, version: u32) -> Result<Vec<u32>> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let mut packet = vec![0xc0];
    packet.extend(version.to_be_bytes());
    packet.extend([8, 1, 2, 3, 4, 5, 6, 7, 8, 8, 8, 7, 6, 5, 4, 3, 2, 1]);
    packet.resize(1_200, 0);
    socket.send_to(&packet, to).await?;
    let mut buffer = [0; 1_500];
    let (length, _) = within(SOON, "an answer", socket.recv_from(&mut buffer)).await??;
    let answer = buffer.get(..length).unwrap_or_default();
    // Long header, version 0, our ids the other way round, then the list.
    let rest = answer.get(1..).and_then(|rest| rest.strip_prefix(&[0; 4])).context("no version negotiation")?;
    let ids = [8, 8, 7, 6, 5, 4, 3, 2, 1, 8, 1, 2, 3, 4, 5, 6, 7, 8];
    let list = rest.strip_prefix(&ids).ok_or_else(|| anyhow!("not for us: {rest:?}"))?;
    ensure!(length <= packet.len(), "the answer is larger than the question");
    Ok(list.as_chunks().0.iter().map(|version| u32::from_be_bytes(*version)).collect())
}

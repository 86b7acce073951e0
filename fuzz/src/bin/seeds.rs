//! Writes honest inputs into the corpus, for the fuzzer to start from: `cargo run --bin seeds` in `fuzz/`.
//! Everything is made of fixed values, so that a second run changes nothing; certificate requests are signed by
//! chance, so that those which are there already stay.

use std::{fs, path::Path};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SanType, SerialNumber,
};
use rollcall_common::{
    code::Code,
    health::{Health, HealthReport, HostFacts, Progress, ProgressReport, Text},
    id::{BeatNo, BootId, Generation, InstanceId, Kind, PaceNo, ServiceKey, SessionNo},
    identity::Pin,
    machine::MachineId,
    service::Pairs,
    time::Timestamp,
    token::{Secret, Token, TokenId},
    wire::{
        children::{ChildAbout, ChildGone, ChildRefused, ChildReport, Children, ChildrenAck, ChildrenGone},
        codec::encode,
        message::{
            About, Ack, Addresses, Beat, Bye, Bytes, Directive, Down, Enroll, Enrolled, Goodbye, GoodbyeReason, Granted,
            Hello, HelloAck, Refused, Rejoin, Renew, Renewed, Up,
        },
        settings::{ProbeState, Settings, SettingsRefused, SettingsState, Tuning},
    },
};

type Seeds = Vec<(String, Vec<u8>)>;
type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (target, seeds) in [
        ("up", ups()?),
        ("down", downs()?),
        ("token", tokens()?),
        ("credential", credentials()),
        ("certificate", certificates()?),
        ("address", addresses()),
        ("pairs", pair_lists()?),
        ("csr", requests()?),
        ("cidr", ranges()),
        ("naming", numbered(NAMING)),
        ("selection", numbered(SELECTION)),
        ("manifest", numbered(MANIFEST)),
        ("login", numbered(LOGIN)),
        ("jwt", jwts()),
        ("mask", numbered(MASK)),
    ] {
        let folder = corpus.join(target);
        fs::create_dir_all(&folder)?;
        for (name, bytes) in seeds {
            let file = folder.join(format!("seed-{name}"));
            if target != "csr" || !file.exists() {
                fs::write(file, bytes)?;
            }
        }
    }
    Ok(())
}

fn key() -> Outcome<ServiceKey> {
    Ok("agent/edge-17".parse()?)
}

fn some_pairs() -> Outcome<Pairs> {
    let pairs = [("rack", "B 4"), ("site", "Zürich")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    Ok(std::collections::BTreeMap::from(pairs).try_into()?)
}

fn pace() -> Granted {
    Granted { pace_no: PaceNo(1), interval_ms: 10_000, ttl_ms: 30_000 }
}

fn identity() -> Renewed {
    Renewed {
        chain: vec![Bytes(vec![0x30; 40]), Bytes(vec![0x31; 40])],
        bundle: vec![Bytes(vec![0x32; 40])],
        bundle_revision: 1,
        generation: Generation(1),
        not_after: Timestamp(1_795_834_000_000),
        renew_at: Timestamp(1_795_531_600_000),
    }
}

fn dialed() -> Outcome<Addresses> {
    Ok(Addresses { revision: 1, list: vec!["collector.test:7411".parse()?, "[2001:db8::1]:7411".parse()?] })
}

fn ups() -> Outcome<Seeds> {
    let (instance_id, clock) = (InstanceId([1; 16]), Timestamp(1_795_229_160_123));
    let (csr, proof) = (Bytes(vec![0x30; 40]), Bytes(vec![0x31; 70]));
    let text = |text| Text::new(text);
    let messages = [
        (
            "enroll",
            Up::Enroll(Box::new(Enroll {
                token: TokenId([1; 10]),
                secret: Secret::from_bytes([2; 32]),
                csr: csr.clone(),
                proof: proof.clone(),
                kind: Kind::Checker,
                parent: Some("edge-17".parse()?),
                id: Some("snmp-1".parse()?),
                checker_kind: Some("snmp".parse()?),
                labels: some_pairs()?,
                metadata: some_pairs()?,
                instance_id,
                clock,
            })),
        ),
        (
            "rejoin",
            Up::Rejoin(Rejoin {
                service: key()?,
                generation: Generation(3),
                csr: csr.clone(),
                proof,
                instance_id,
                clock,
            }),
        ),
        (
            "hello",
            Up::Hello(Hello {
                versions: vec![1, 2],
                capabilities: 0,
                service: key()?,
                instance_id,
                session: SessionNo(1),
                boot_id: BootId([3; 16]),
                clock,
            }),
        ),
        ("beat", Up::Beat(Beat { beat_no: BeatNo(300), pace_no: PaceNo(1) })),
        ("health", Up::Health(HealthReport { health: Health::Degraded, reason: text("disk 91 %")? })),
        (
            "facts",
            Up::Facts(Box::new(HostFacts {
                hostname: text("edge-17")?,
                os: text("Debian GNU/Linux 12")?,
                kernel: text("6.1.0")?,
                arch: text("x86_64")?,
                cpus: 2,
                memory_mib: 24_000,
                uptime_secs: 86_400,
                agent_version: text("0.1.0")?,
            })),
        ),
        ("renew", Up::Renew(Renew { csr })),
        ("bye", Up::Bye(Goodbye { reason: GoodbyeReason::Restart, back_in_secs: Some(300) })),
        (
            "children",
            Up::Children(Box::new(Children {
                batch_no: 1,
                interval_ms: 60_000,
                children: vec![
                    ChildReport {
                        child: key()?,
                        parent: None,
                        report: HealthReport { health: Health::Healthy, reason: text("")? },
                        about: None,
                    },
                    ChildReport {
                        child: "checker/snmp-1".parse()?,
                        parent: Some("edge-17".parse()?),
                        report: HealthReport { health: Health::Unhealthy, reason: text("no route")? },
                        about: Some(Box::new(ChildAbout {
                            checker_kind: Some("snmp".parse()?),
                            labels: some_pairs()?,
                            metadata: some_pairs()?,
                        })),
                    },
                ],
            })),
        ),
        (
            "children-gone",
            Up::ChildrenGone(Box::new(ChildrenGone {
                batch_no: 2,
                children: vec![ChildGone { child: key()?, parent: None, reason: GoodbyeReason::Uninstall }],
            })),
        ),
        (
            "settings-state",
            Up::Settings(Box::new(SettingsState {
                revision: 7,
                refused: Some(SettingsRefused { revision: 8, why: text("no such probe")? }),
                probes: vec![ProbeState {
                    child: Some("checker/snmp-1".parse()?),
                    probe: "port".parse()?,
                    sort: text("tcp")?,
                    allowed: true,
                    runs: true,
                    interval_ms: 10_000,
                    timeout_ms: 3_000,
                    rise: 2,
                    fall: 3,
                }],
                more: 0,
            })),
        ),
        (
            "about",
            Up::About(Box::new(About {
                machine: Some("0123456789abcdef0123456789abcdef".parse::<MachineId>()?.tag()),
                labels: some_pairs()?,
                metadata: some_pairs()?,
            })),
        ),
        (
            "progress",
            Up::Progress(ProgressReport { progress: Progress::Stalled, reason: text("no progress for 300 s")? }),
        ),
    ];
    frames(messages)
}

fn downs() -> Outcome<Seeds> {
    let server_time = Timestamp(1_795_229_160_123);
    let messages = [
        (
            "enrolled",
            Down::Enrolled(Box::new(Enrolled {
                service: key()?,
                identity: identity(),
                addresses: dialed()?,
                pace: pace(),
                server_time,
            })),
        ),
        ("refused", Down::Refused(Refused { code: Code::Busy, retry_after_ms: 1_500, server_time })),
        (
            "hello-ack",
            Down::HelloAck(HelloAck {
                version: 1,
                capabilities: 0,
                pace: pace(),
                addresses_revision: 1,
                server_time,
                renew_at: server_time,
            }),
        ),
        ("ack", Down::Ack(Ack { beat_no: BeatNo(300), pace: pace(), retry_after_ms: 0 })),
        ("renewed", Down::Renewed(Box::new(identity()))),
        ("addresses", Down::Directive(Directive::Addresses(dialed()?))),
        ("renew-now", Down::Directive(Directive::RenewNow)),
        ("bye", Down::Bye(Bye { code: Code::Draining, retry_after_ms: 250 })),
        (
            "children",
            Down::Children(Box::new(ChildrenAck {
                batch_no: 1,
                refused: vec![ChildRefused { index: 1, code: Code::ChildOfAnother }],
                retry_after_ms: 0,
            })),
        ),
        (
            "settings",
            Down::Settings(Box::new(Settings {
                revision: 7,
                labels: some_pairs()?,
                probes: vec![Tuning {
                    child: Some("checker/snmp-1".parse()?),
                    probe: "port".parse()?,
                    run: Some(false),
                    interval_ms: Some(30_000),
                    timeout_ms: Some(500),
                    rise: Some(1),
                    fall: None,
                }],
            })),
        ),
    ];
    frames(messages)
}

/// Each message as a frame and as a bare body, and all of them as one stream.
fn frames<T: serde::Serialize, const N: usize>(messages: [(&str, T); N]) -> Outcome<Seeds> {
    let (mut seeds, mut stream) = (vec![], vec![]);
    for (name, message) in messages {
        let frame = encode(&message)?;
        stream.extend_from_slice(&frame);
        seeds.push((format!("{name}-body"), frame.get(4..).unwrap_or_default().to_vec()));
        seeds.push((format!("{name}-frame"), frame));
    }
    seeds.push(("stream".into(), stream));
    Ok(seeds)
}

fn tokens() -> Outcome<Seeds> {
    let addresses = ["collector.test:7411", "192.0.2.1:7411", "[2001:db8::1]:7411", "localhost"];
    let token = Token {
        id: TokenId([7; 10]),
        secret: Secret::from_bytes([9; 32]),
        pin: Pin([3; 32]),
        expires: Timestamp::from_secs(1_800_000_000),
        trust_domain: "fleet.test".parse()?,
        addresses: addresses.iter().map(|text| text.parse()).collect::<Result<_, _>>()?,
    };
    let mut inside = vec![1, 0];
    inside.extend([9; 32]);
    inside.extend([3; 32]);
    inside.extend(1_800_000_000_u32.to_be_bytes());
    inside.extend(b"\x0afleet.test\x02\x13collector.test:7411\x0e192.0.2.1:7411");
    Ok(vec![("token".into(), token.reveal().as_bytes().to_vec()), ("inside".into(), inside)])
}

fn credentials() -> Seeds {
    let id = "aaaaaaaaaaaaaaaa";
    vec![("inside".into(), vec![5; 60]), ("short".into(), format!("rollcall_adm1_{id}_aaaaaaaa").into_bytes())]
}

fn certificates() -> Outcome<Seeds> {
    // Ed25519 signs without chance: a second run writes the same bytes.
    let key = KeyPair::from_pkcs8_der_and_sign_algo(&worthless_key().into(), &PKCS_ED25519)?;
    let uri = |text: &str| -> Outcome<SanType> { Ok(SanType::URI(text.try_into()?)) };
    let leaf = |names: Vec<SanType>, serial: &[u8]| -> Outcome<CertificateParams> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = names;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.is_ca = IsCa::ExplicitNoCa;
        params.serial_number = Some(SerialNumber::from_slice(serial));
        Ok(params)
    };
    let mut ca = CertificateParams::default();
    ca.distinguished_name = DistinguishedName::new();
    ca.distinguished_name.push(DnType::CommonName, "root");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.serial_number = Some(SerialNumber::from_slice(&[1; 16]));
    let root = ca.self_signed(&key)?;
    let issuer = Issuer::from_params(&ca, &key);
    let sidecar = uri("spiffe://fleet.test/agent/edge-17")?;
    let collector = uri("spiffe://fleet.test/collector/main")?;
    let mut seeds = vec![("root".into(), root.der().to_vec()), ("name".into(), b"spiffe://a/agent/b".to_vec())];
    for (name, params) in [
        ("sidecar", leaf(vec![sidecar.clone()], &[1; 16])?),
        ("collector", leaf(vec![collector.clone()], &[1; 16])?),
        ("two-names", leaf(vec![sidecar.clone(), collector], &[1; 16])?),
        ("no-name", leaf(vec![], &[1; 16])?),
        ("odd-serial", leaf(vec![sidecar], &[2; 8])?),
    ] {
        seeds.push((name.into(), params.signed_by(&key, &issuer)?.der().to_vec()));
    }
    Ok(seeds)
}

/// PKCS#8 of a key for nothing but these seeds: thirty-two zeros.
fn worthless_key() -> Vec<u8> {
    let head = [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
    [head.as_slice(), &[0; 32]].concat()
}

fn addresses() -> Seeds {
    [
        "collector.test",
        "collector.test:7411",
        "192.0.2.1:1",
        "[2001:db8::1]:65535",
        "::1",
        "[::ffff:127.0.0.1]:9",
        "a_b-c.d",
    ]
    .iter()
    .enumerate()
    .map(|(n, text)| (n.to_string(), text.as_bytes().to_vec()))
    .collect()
}

fn pair_lists() -> Outcome<Seeds> {
    let bytes = |pairs: &Pairs| encode(pairs).map(|frame| frame.get(4..).unwrap_or_default().to_vec());
    Ok(vec![("none".into(), bytes(&Pairs::default())?), ("some".into(), bytes(&some_pairs()?)?)])
}

fn requests() -> Outcome<Seeds> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let request = |params: CertificateParams, key: &KeyPair| -> Outcome<Vec<u8>> {
        Ok(params.serialize_request(key)?.der().to_vec())
    };
    let mut plain = CertificateParams::default();
    plain.distinguished_name = DistinguishedName::new();
    let mut greedy = plain.clone();
    greedy.distinguished_name.push(DnType::CommonName, "root");
    greedy.subject_alt_names = vec![SanType::URI("spiffe://fleet.test/collector/main".try_into()?)];
    greedy.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let mut forged = request(plain.clone(), &key)?;
    if let Some(last) = forged.last_mut() {
        *last ^= 1;
    }
    Ok(vec![
        ("honest".into(), request(plain.clone(), &key)?),
        ("greedy".into(), request(greedy, &key)?),
        ("forged".into(), forged),
        ("p384".into(), request(plain.clone(), &KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384)?)?),
        ("ed25519".into(), request(plain, &KeyPair::generate_for(&PKCS_ED25519)?)?),
    ])
}

fn ranges() -> Seeds {
    ["192.0.2.0/24", "2001:db8::/32", "0.0.0.0/0", "::/0", "192.0.2.7", "::ffff:192.0.2.7/24", "10.0.0.0/33"]
        .iter()
        .enumerate()
        .map(|(n, text)| (n.to_string(), text.as_bytes().to_vec()))
        .collect()
}

const NAMING: &[&str] = &[
    "edge-*\nedge-17",
    "*-??-*\na-b1-c",
    "**?**\nx",
    "edge-17\nedge-17",
    "site=poller-{}\n3",
    "site={}\nZ",
    "?*?*?*?*?*?*?*?*\naaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
];
const SELECTION: &[&str] = &[
    "status=active,pending&presence=lost&health=degraded&limit=5",
    "label=site%3D3&label=%21env&label=env%20in%20(a,b)&q=edge",
    "subtree=poller/site-3&registered_after=2026-11-21T00:00:00Z&placeholder=true",
    "cursor=abc&limit=1001",
    "site in (1,2,3)",
    "site=3,env in (prod,stage)",
    "!gone",
    "key notin (a,b)",
];
const MANIFEST: &[&str] = &[
    "{\"kind\":\"poller\",\"id\":\"p\"}\n{\"kind\":\"agent\",\"id\":\"a\",\"parent\":\"p\",\"labels\":{\"site\":\"3\"}}\n",
    "{\"items\":[{\"kind\":\"poller\",\"id\":\"p\"}],\"dry_run\":true}",
    "{\"kind\":\"poller\",\"id\":\"p\",\"first_seen\":\"2026-11-21T00:00:00Z\",\"status\":\"active\"}",
    "pollers:\n  - id: p\n    agents:\n      - id: a\n        labels: {site: \"3\"}\n",
    "- kind: poller\n  id: p\n- kind: instance\n  id: i\n",
    "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
];
const LOGIN: &[&str] = &[
    "abcde-fghij-klmno-pqrst-uvwxy",
    "ABCDE FGHIJ KLMNO PQRST UVW10",
    "{\"hash\":\"0000000000000000000000000000000000000000000000000000000000000000\",\"expires_at_ms\":1800000000000}\n",
    "",
];
const MASK: &[&str] = &[
    "token rollcall_enr1_aaaaaaaaaaaaaaaa_bcdefghijklmnopqrstuvwxyz234567bcdefghijkl is here",
    "Authorization: Bearer eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl",
    "redis://user:p@ss/word@host:6379 and abcde-fghij-klmno-pqrst-uvwxy",
    "ROLLCALL_ADM1_AAAAAAAAAAAAAAAA_BCDEFGHIJKLMNOPQRSTUVWXYZ234567",
    "rollcall_api1_rollcall_api1_aaaaaaaaaaaaaaaa_bcdefghijklmnopqrstuvwxyz234567",
    "nothing of the sort, in two\nlines \u{1b}[2J",
];

/// Texts under their numbers.
fn numbered(texts: &[&str]) -> Seeds {
    texts.iter().enumerate().map(|(n, text)| (n.to_string(), text.as_bytes().to_vec())).collect()
}

/// Tokens whose signature is nobody's.
fn jwts() -> Seeds {
    let part = |text: &str| data_encoding::BASE64URL_NOPAD.encode(text.as_bytes());
    let claims = r#"{"iss":"https://idp.example","aud":["rollcall"],"sub":"alice","exp":1800000300,"realm_access":{"roles":["ops"]}}"#;
    let tokens = [
        (r#"{"alg":"ES256","kid":"k","typ":"JWT"}"#, claims),
        (r#"{"alg":"none"}"#, claims),
        (r#"{"alg":"ES256","crit":["exp"]}"#, claims),
        (r#"{"alg":"ES256"}"#, r#"{"exp":1e400}"#),
        (r#"{"alg":"ES256"}"#, "[]"),
    ];
    let text = |(header, claims): &(&str, &str)| format!("{}.{}.c2ln", part(header), part(claims)).into_bytes();
    tokens.iter().enumerate().map(|(n, token)| (n.to_string(), text(token))).collect()
}

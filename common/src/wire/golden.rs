//! Frozen bytes of everything that crosses the network.
//!
//! Postcard carries neither names nor numbers of fields: a field moved, a variant inserted or an integer
//! widened changes what old peers read without a word from the compiler. A line here may be added, never
//! changed. A new variant does not compile until it is named below, and then fails until it has a line.

use data_encoding::HEXLOWER;
use serde::{Serialize, de::DeserializeOwned};

use super::{
    ALPN_BEAT, ALPN_ENROLL, BEAT_VERSION, EXPORTER_LABEL, EXPORTER_LEN, MAX_FRAME, SERVER_NAME,
    children::{
        ChildAbout, ChildGone, ChildRefused, ChildReport, Children, ChildrenAck, ChildrenGone, MAX_CHILDREN, MAX_GONE,
    },
    codec::{decode, encode},
    message::{
        About, Ack, Addresses, Beat, Bye, Bytes, Directive, Down, Enroll, Enrolled, Goodbye, GoodbyeReason, Granted,
        Hello, HelloAck, MAX_ADDRESSES, Refused, Rejoin, Renew, Renewed, Up, capability,
    },
    proof_message,
    settings::{MAX_SHOWN, MAX_TUNED, ProbeState, Settings, SettingsRefused, SettingsState, Tuning},
};
use crate::{
    code::Code,
    health::{Health, HealthReport, HostFacts, Progress, ProgressReport, Text},
    id::{BeatNo, BootId, Generation, InstanceId, Kind, PaceNo, ServiceKey, SessionNo},
    machine::MachineId,
    service::Pairs,
    time::Timestamp,
    token::{Secret, TokenId},
};

/// Names every variant twice from one list: as an exhaustive match, which a new variant breaks, and as a
/// roster, which every name must find a line for.
macro_rules! variants {
    ($($enum:ident { $($variant:ident $(($skip:tt))?),* $(,)? })*) => {
        $(impl Named for $enum {
            const ROSTER: &'static [&'static str] = &[$(concat!(stringify!($enum), "::", stringify!($variant)),)*];
            fn name(&self) -> &'static str {
                match self {
                    $(Self::$variant $(($skip))? => concat!(stringify!($enum), "::", stringify!($variant)),)*
                }
            }
        })*
    };
}

trait Named {
    const ROSTER: &'static [&'static str];
    fn name(&self) -> &'static str;
}

variants! {
    Up { Enroll(_), Rejoin(_), Hello(_), Beat(_), Health(_), Facts(_), Renew(_), Bye(_), Children(_), ChildrenGone(_), Settings(_), About(_), Progress(_) }
    Down { Enrolled(_), Refused(_), HelloAck(_), Ack(_), Renewed(_), Directive(_), Bye(_), Children(_), Settings(_) }
    Directive { Addresses(_), RenewNow }
    GoodbyeReason { Stop, Restart, HostShutdown, Uninstall }
    Kind { Poller, Agent, Checker, Instance }
    Health { Healthy, Degraded, Unhealthy, Unchecked }
    Progress { Moving, Stalled, Unwatched }
}

/// One frozen value: what we make of it today, and what we make of its frozen bytes.
struct Line {
    name: &'static str,
    made: String,
    again: String,
    frozen: &'static str,
}

/// A whole frame of a message, length prefix included.
fn line<T: Named + Serialize + DeserializeOwned>(message: &T, frozen: &'static str) -> Line {
    let bytes = HEXLOWER.decode(frozen.as_bytes()).expect("frozen bytes are hexadecimal");
    let read: Result<T, _> = decode(bytes.get(4..).unwrap_or_default());
    let again = read.map_or_else(|error| error.to_string(), |read| HEXLOWER.encode(&encode(&read).expect("it fits")));
    Line { name: message.name(), made: HEXLOWER.encode(&encode(message).expect("it fits")), again, frozen }
}

fn key(text: &str) -> ServiceKey {
    text.parse().expect("a service key")
}

fn pairs(of: &[(&str, &str)]) -> Pairs {
    let map: std::collections::BTreeMap<_, _> = of.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    map.try_into().expect("pairs")
}

fn text(of: &str) -> Text {
    Text::new(of).expect("a text")
}

fn pace() -> Granted {
    Granted { pace_no: PaceNo(7), interval_ms: 10_000, ttl_ms: 30_000 }
}

fn addresses() -> Addresses {
    let list = ["collector.example.net:7411", "192.0.2.1:7412", "[2001:db8::1]:7413"];
    Addresses { revision: 5, list: list.iter().map(|text| text.parse().expect("an address")).collect() }
}

fn identity() -> Renewed {
    Renewed {
        chain: vec![Bytes(vec![0x30, 0x01]), Bytes(vec![0x30, 0x02])],
        bundle: vec![Bytes(vec![0x30, 0x03])],
        bundle_revision: 2,
        generation: Generation(3),
        not_after: Timestamp(1_795_834_000_000),
        renew_at: Timestamp(1_795_531_600_000),
    }
}

fn enroll() -> Enroll {
    Enroll {
        token: TokenId(*b"0123456789"),
        secret: Secret::from_bytes([0xa5; 32]),
        csr: Bytes(vec![0x30, 0x81]),
        proof: Bytes(vec![0x30, 0x45]),
        kind: Kind::Checker,
        parent: Some("edge-17".parse().expect("an id")),
        id: Some("snmp-1".parse().expect("an id")),
        checker_kind: Some("snmp".parse().expect("a checker kind")),
        labels: pairs(&[("site", "zrh"), ("tier", "1")]),
        metadata: pairs(&[("rack", "B 4")]),
        instance_id: InstanceId([0x11; 16]),
        clock: Timestamp(1_795_229_160_123),
    }
}

fn sparse_enroll() -> Enroll {
    Enroll {
        kind: Kind::Poller,
        parent: None,
        id: None,
        checker_kind: None,
        labels: Pairs::default(),
        metadata: Pairs::default(),
        clock: Timestamp(-1),
        ..enroll()
    }
}

fn machine() -> crate::machine::MachineTag {
    "0123456789abcdef0123456789abcdef".parse::<MachineId>().expect("a machine's id").tag()
}

fn settings() -> Settings {
    let tuning = |child: Option<&str>, probe: &str| Tuning {
        child: child.map(key),
        probe: probe.parse().expect("an id"),
        run: None,
        interval_ms: None,
        timeout_ms: None,
        rise: None,
        fall: None,
    };
    let full = Tuning {
        run: Some(true),
        interval_ms: Some(30_000),
        timeout_ms: Some(500),
        rise: Some(1),
        fall: Some(300),
        ..tuning(Some("checker/snmp-1"), "port")
    };
    Settings { revision: 300, labels: pairs(&[("site", "zrh")]), probes: vec![full, tuning(None, "unit")] }
}

fn state() -> SettingsState {
    let probe = |child: Option<&str>, allowed, runs| ProbeState {
        child: child.map(key),
        probe: "port".parse().expect("an id"),
        sort: text("tcp"),
        allowed,
        runs,
        interval_ms: 10_000,
        timeout_ms: 3_000,
        rise: 2,
        fall: 300,
    };
    SettingsState {
        revision: 300,
        refused: Some(SettingsRefused { revision: 301, why: text("no such probe") }),
        probes: vec![probe(Some("checker/snmp-1"), true, false), probe(None, false, true)],
        more: 0,
    }
}

fn ups() -> Vec<Line> {
    let progress = |progress, reason| Up::Progress(ProgressReport { progress, reason: text(reason) });
    let bye = |reason, back_in_secs| Up::Bye(Goodbye { reason, back_in_secs });
    let health = |health, reason| Up::Health(HealthReport { health, reason: text(reason) });
    vec![
        line(
            &Up::Enroll(Box::new(enroll())),
            "0000007a0030313233343536373839a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a502\
             3081023045020107656467652d31370106736e6d702d310104736e6d70020473697465037a7268047469657201310104\
             7261636b0342203411111111111111111111111111111111f6caf8bfbf68",
        ),
        line(
            &Up::Enroll(Box::new(sparse_enroll())),
            "000000480030313233343536373839a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a502\
             30810230450000000000001111111111111111111111111111111101",
        ),
        line(
            &Up::Rejoin(Rejoin {
                service: key("agent/edge-17"),
                generation: Generation(300),
                csr: Bytes(vec![0x30, 0x81]),
                proof: Bytes(vec![0x30, 0x45]),
                instance_id: InstanceId([0x11; 16]),
                clock: Timestamp(1_795_229_160_123),
            }),
            "00000028010107656467652d3137ac0202308102304511111111111111111111111111111111f6caf8bfbf68",
        ),
        line(
            &Up::Hello(Hello {
                versions: vec![BEAT_VERSION, 2],
                capabilities: 0x81,
                service: key("poller/p1"),
                instance_id: InstanceId([0x11; 16]),
                session: SessionNo(4),
                boot_id: BootId([0x22; 16]),
                clock: Timestamp(1_795_229_160_123),
            }),
            "0000003102020102810100027031111111111111111111111111111111110422222222222222222222222222222222f6\
             caf8bfbf68",
        ),
        line(&Up::Beat(Beat { beat_no: BeatNo(300), pace_no: PaceNo(7) }), "0000000403ac0207"),
        line(
            &Up::Beat(Beat { beat_no: BeatNo(u64::MAX), pace_no: PaceNo(u32::MAX) }),
            "0000001003ffffffffffffffffff01ffffffff0f",
        ),
        line(&health(Health::Healthy, ""), "00000003040000"),
        line(&health(Health::Degraded, "disk 91 %"), "0000000c0401096469736b2039312025"),
        line(&health(Health::Unhealthy, "port 22 refused"), "0000001204020f706f72742032322072656675736564"),
        line(&health(Health::Unchecked, "no probe"), "0000000b0403086e6f2070726f6265"),
        line(
            &Up::Facts(Box::new(HostFacts {
                hostname: text("edge-17"),
                os: text("Debian GNU/Linux 12"),
                kernel: text("6.1.0"),
                arch: text("x86_64"),
                cpus: 2,
                memory_mib: 24_000,
                uptime_secs: 86_400,
                agent_version: text("0.1.0"),
            })),
            "000000370507656467652d31371344656269616e20474e552f4c696e757820313205362e312e30067838365f363402c0\
             bb0180a30505302e312e30",
        ),
        line(&Up::Renew(Renew { csr: Bytes(vec![0x30, 0x81]) }), "0000000406023081"),
        line(&bye(GoodbyeReason::Stop, None), "00000003070000"),
        line(&bye(GoodbyeReason::Restart, Some(300)), "00000005070101ac02"),
        line(&bye(GoodbyeReason::HostShutdown, Some(0)), "0000000407020100"),
        line(&bye(GoodbyeReason::Uninstall, None), "00000003070300"),
        line(
            &Up::Children(Box::new(Children {
                batch_no: 300,
                interval_ms: 60_000,
                children: vec![
                    ChildReport {
                        child: key("agent/edge-17"),
                        parent: None,
                        report: HealthReport { health: Health::Healthy, reason: text("") },
                        about: None,
                    },
                    ChildReport {
                        child: key("checker/snmp-1"),
                        parent: Some("edge-17".parse().expect("an id")),
                        report: HealthReport { health: Health::Unhealthy, reason: text("no route") },
                        about: Some(Box::new(ChildAbout {
                            checker_kind: Some("snmp".parse().expect("a checker kind")),
                            labels: pairs(&[("site", "zrh")]),
                            metadata: pairs(&[("rack", "B 4")]),
                        })),
                    },
                ],
            })),
            "0000004a08ac02e0d403020107656467652d3137000000000206736e6d702d310107656467652d313702086e6f20726f\
             757465010104736e6d70010473697465037a726801047261636b03422034",
        ),
        line(
            &Up::ChildrenGone(Box::new(ChildrenGone {
                batch_no: 301,
                children: vec![
                    ChildGone { child: key("agent/edge-17"), parent: None, reason: GoodbyeReason::Uninstall },
                    ChildGone {
                        child: key("checker/snmp-1"),
                        parent: Some("edge-17".parse().expect("an id")),
                        reason: GoodbyeReason::Stop,
                    },
                ],
            })),
            "0000002109ad02020107656467652d313700030206736e6d702d310107656467652d313700",
        ),
        line(
            &Up::Settings(Box::new(state())),
            "000000440aac0201ad020d6e6f20737563682070726f626502010206736e6d702d3104706f7274037463700100904eb8\
             1702ac020004706f7274037463700001904eb81702ac0200",
        ),
        line(
            &Up::Settings(Box::new(SettingsState { revision: 0, refused: None, probes: vec![], more: 300 })),
            "000000060a000000ac02",
        ),
        line(
            &Up::About(Box::new(About {
                machine: Some(machine()),
                labels: pairs(&[("site", "zrh")]),
                metadata: pairs(&[("rack", "B 4")]),
            })),
            "000000370b01206639346364333066346461353430666362613133306536663837373534383064010473697465037a72\
             6801047261636b03422034",
        ),
        line(&Up::About(Box::default()), "000000040b000000"),
        line(&progress(Progress::Moving, ""), "000000030c0000"),
        line(
            &progress(Progress::Stalled, "queue: no progress for 300 s"),
            "0000001f0c011c71756575653a206e6f2070726f677265737320666f72203330302073",
        ),
        line(&progress(Progress::Unwatched, ""), "000000030c0200"),
    ]
}

fn downs() -> Vec<Line> {
    let refused = |code, retry_after_ms| {
        Down::Refused(Refused { code, retry_after_ms, server_time: Timestamp(1_795_229_160_123) })
    };
    vec![
        line(
            &Down::Enrolled(Box::new(Enrolled {
                service: key("checker/snmp-1"),
                identity: identity(),
                addresses: addresses(),
                pace: pace(),
                server_time: Timestamp(1_795_229_160_123),
            })),
            "0000006d000206736e6d702d310202300102300201023003020380cae180c46880c2afe0c16805031a636f6c6c656374\
             6f722e6578616d706c652e6e65743a373431310e3139322e302e322e313a37343132125b323030313a6462383a3a315d\
             3a3734313307904eb0ea01f6caf8bfbf68",
        ),
        line(&refused(Code::Busy, 1_500), "0000000a010bdc0bf6caf8bfbf68"),
        line(&refused(Code::IdTaken, 0), "00000009011e00f6caf8bfbf68"),
        line(&refused(Code::Other(9_999), 0), "0000000a018f4e00f6caf8bfbf68"),
        line(
            &Down::HelloAck(HelloAck {
                version: BEAT_VERSION,
                capabilities: 0x81,
                pace: pace(),
                addresses_revision: 5,
                server_time: Timestamp(1_795_229_160_123),
                renew_at: Timestamp(1_795_531_600_000),
            }),
            "000000170201810107904eb0ea0105f6caf8bfbf6880c2afe0c168",
        ),
        line(&Down::Ack(Ack { beat_no: BeatNo(300), pace: pace(), retry_after_ms: 0 }), "0000000a03ac0207904eb0ea0100"),
        line(
            &Down::Ack(Ack { beat_no: BeatNo(300), pace: pace(), retry_after_ms: 2_000 }),
            "0000000b03ac0207904eb0ea01d00f",
        ),
        line(&Down::Renewed(Box::new(identity())), "0000001a040202300102300201023003020380cae180c46880c2afe0c168"),
        line(
            &Down::Directive(Directive::Addresses(addresses())),
            "00000041050005031a636f6c6c6563746f722e6578616d706c652e6e65743a373431310e3139322e302e322e313a3734\
             3132125b323030313a6462383a3a315d3a37343133",
        ),
        line(&Down::Directive(Directive::RenewNow), "000000020501"),
        line(&Down::Bye(Bye { code: Code::Draining, retry_after_ms: 250 }), "000000040601fa01"),
        line(&Down::Bye(Bye { code: Code::Superseded, retry_after_ms: 0 }), "00000003060200"),
        line(
            &Down::Children(Box::new(ChildrenAck {
                batch_no: 300,
                refused: vec![ChildRefused { index: 1, code: Code::ChildOfAnother }],
                retry_after_ms: 1_500,
            })),
            "0000000807ac02010129dc0b",
        ),
        line(
            &Down::Settings(Box::new(settings())),
            "0000003508ac02010473697465037a726802010206736e6d702d3104706f7274010101b0ea0101f403010101ac020004\
             756e69740000000000",
        ),
        line(
            &Down::Settings(Box::new(Settings { revision: 8, labels: Pairs::default(), probes: vec![] })),
            "0000000408080000",
        ),
    ]
}

/// The small enums on their own, so that each variant's number is plain to see.
fn words() -> Vec<Line> {
    let directives = [Directive::Addresses(addresses()), Directive::RenewNow];
    let reasons = [GoodbyeReason::Stop, GoodbyeReason::Restart, GoodbyeReason::HostShutdown, GoodbyeReason::Uninstall];
    let mut lines = vec![];
    lines.extend(directives.iter().zip(DIRECTIVES).map(|(v, hex)| line(v, hex)));
    lines.extend(reasons.iter().zip(NUMBERED).map(|(v, hex)| line(v, hex)));
    lines.extend(Kind::ALL.iter().zip(NUMBERED).map(|(v, hex)| line(v, hex)));
    lines.extend(Health::ALL.iter().zip(NUMBERED).map(|(v, hex)| line(v, hex)));
    lines.extend(Progress::ALL.iter().zip(NUMBERED).map(|(v, hex)| line(v, hex)));
    lines
}

const DIRECTIVES: [&str; 2] = [
    "000000400005031a636f6c6c6563746f722e6578616d706c652e6e65743a373431310e3139322e302e322e313a373431\
     32125b323030313a6462383a3a315d3a37343133",
    "0000000101",
];
const NUMBERED: [&str; 4] = ["0000000100", "0000000101", "0000000102", "0000000103"];

fn lines() -> Vec<Line> {
    [ups(), downs(), words()].into_iter().flatten().collect()
}

#[test]
fn the_released_bytes_stand() {
    for (n, line) in lines().iter().enumerate() {
        assert_eq!(line.made, line.frozen, "line {n}, {}: it encodes to other bytes than released", line.name);
        assert_eq!(line.again, line.frozen, "line {n}, {}: the released bytes read as something else", line.name);
    }
}

#[test]
fn every_variant_has_a_line() {
    let named: Vec<_> = lines().iter().map(|line| line.name).collect();
    let rosters = [
        Up::ROSTER,
        Down::ROSTER,
        Directive::ROSTER,
        GoodbyeReason::ROSTER,
        Kind::ROSTER,
        Health::ROSTER,
        Progress::ROSTER,
    ]
    .concat();
    for variant in rosters {
        assert!(named.contains(&variant), "{variant} has no golden line");
    }
}

#[test]
fn the_released_constants_stand() {
    assert_eq!(ALPN_ENROLL, b"rollcall-enroll/1");
    assert_eq!(ALPN_BEAT, b"rollcall-beat/1");
    assert_eq!((BEAT_VERSION, MAX_FRAME, EXPORTER_LEN, MAX_ADDRESSES, MAX_CHILDREN), (1, 16_384, 32, 16, 256));
    assert_eq!((capability::CHILDREN, capability::CHILDREN_GONE, MAX_GONE), (1, 2, 64));
    assert_eq!((capability::ABOUT, capability::PROGRESS, capability::SETTINGS), (4, 8, 16));
    assert_eq!((MAX_TUNED, MAX_SHOWN), (32, 64));
    assert_eq!(EXPORTER_LABEL, b"EXPORTER-rollcall-enroll");
    assert_eq!(SERVER_NAME, "collector.rollcall.invalid");
    let proof = HEXLOWER.encode(&proof_message(&[7; EXPORTER_LEN], b"csr"));
    assert_eq!(
        proof,
        "0707070707070707070707070707070707070707070707070707070707070707\
         c27338c453067b437471afbce792704d816112c6031bb996b62c698ea599ef80"
    );
}

/// The steady state costs little: a century of beats at one a second, with every pace that fits.
#[test]
fn a_beat_and_its_ack_stay_small() {
    let beat_no = BeatNo(100 * 366 * 86_400);
    let beat = encode(&Up::Beat(Beat { beat_no, pace_no: PaceNo(u32::MAX) })).expect("it fits");
    assert!(beat.len() < 16, "{} bytes", beat.len());
    let slowest = Granted { pace_no: PaceNo(u32::MAX), interval_ms: 3_600_000, ttl_ms: 10_800_000 };
    let ack = encode(&Down::Ack(Ack { beat_no, pace: slowest, retry_after_ms: 3_600_000 })).expect("it fits");
    assert!(ack.len() < 32, "{} bytes", ack.len());
}

/// The largest answer that a collector may give fits a frame: three certificates of a kilobyte, three
/// roots, and the longest address list.
#[test]
fn the_largest_answer_fits_a_frame() {
    let name = format!("{}.{}", ["a".repeat(63), "b".repeat(63), "c".repeat(63)].join("."), "d".repeat(61));
    let address = format!("{name}:65535").parse().expect("an address");
    let certificate = || Bytes(vec![0; 1_024]);
    let answer = Down::Enrolled(Box::new(Enrolled {
        service: key(&format!("instance/{}", "x".repeat(64))),
        identity: Renewed { chain: vec![certificate(); 3], bundle: vec![certificate(); 3], ..identity() },
        addresses: Addresses { revision: u64::MAX, list: vec![address; MAX_ADDRESSES] },
        pace: pace(),
        server_time: Timestamp(i64::MAX),
    }));
    assert!(encode(&answer).is_ok());
}

//! What is seen on this host. Nothing here judges, and nothing is changed: the one file that is written is removed.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream, ToSocketAddrs as _, UdpSocket},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
    process::Command,
    time::Duration,
};

use rollcall_common::time::{Clock as _, SystemClock, Timestamp};

use super::judge::{Buffers, LivenessSeen, State, Udp};
use crate::config::{Config, Liveness};

/// How long an answer may take.
const WITHIN: Duration = Duration::from_secs(2);
/// Packets to one address: one may get lost.
const TRIES: usize = 2;
/// Durable writes, of which the one in the middle counts.
const WRITES: usize = 5;
/// The file of these writes.
const SCRATCH: &str = ".doctor";

/// The process that holds a state directory, if it lives.
pub(super) fn holder(state_dir: &Path) -> Option<u32> {
    let pid: u32 = fs::read_to_string(state_dir.join("lock")).ok()?.trim().parse().ok()?;
    // The number may have passed to another program meanwhile.
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    name.starts_with("rollcall-collec").then_some(pid)
}

/// Everywhere that a sidecar might knock.
pub(super) fn udp(config: &Config, running: bool) -> Vec<Udp> {
    let mut here = config.quic_listen;
    if here.ip().is_unspecified() {
        here.set_ip(if here.is_ipv6() { [0, 0, 0, 0, 0, 0, 0, 1].into() } else { [127, 0, 0, 1].into() });
    }
    let mut seen = Vec::new();
    if running {
        seen.push(if answers(here) { Udp::Answers(here.to_string()) } else { Udp::SilentHere(here.to_string()) });
    } else {
        let address = config.quic_listen.to_string();
        seen.push(match UdpSocket::bind(config.quic_listen) {
            Ok(_) => Udp::Free(address),
            Err(error) => Udp::Refused { address, why: error.to_string() },
        });
    }
    if config.advertise.is_empty() {
        seen.push(Udp::Unadvertised);
    }
    for advertised in &config.advertise {
        let address = advertised.to_string();
        match address.to_socket_addrs() {
            Err(error) => seen.push(Udp::Unresolved { address, why: error.to_string() }),
            Ok(_) if !running => {}
            Ok(mut all) => {
                seen.push(if all.any(answers) { Udp::Answers(address) } else { Udp::SilentThere(address) });
            }
        }
    }
    seen
}

/// Whether somebody speaks QUIC there: a version that nobody has is answered with those that there are.
fn answers(at: SocketAddr) -> bool {
    let packet = greeting();
    let asked = || -> io::Result<bool> {
        let from: SocketAddr = if at.is_ipv6() { ([0_u16; 8], 0).into() } else { ([0, 0, 0, 0], 0).into() };
        let socket = UdpSocket::bind(from)?;
        socket.connect(at)?;
        socket.set_read_timeout(Some(WITHIN))?;
        for _ in 0..TRIES {
            socket.send(&packet)?;
            let mut answer = [0; 1_500];
            match socket.recv(&mut answer) {
                Ok(length) => return Ok(is_negotiation(answer.get(..length).unwrap_or_default())),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    };
    asked().unwrap_or(false)
}

/// A long header of a reserved version (RFC 9000, 15), filled up to what a first packet must have.
fn greeting() -> Vec<u8> {
    let mut packet = vec![0xc0, 0x1a, 0x2a, 0x3a, 0x4a, 8];
    packet.extend(b"rollcall");
    packet.push(8);
    packet.extend(b"doctor00");
    packet.resize(1_200, 0);
    packet
}

/// Version negotiation: a long header with version 0.
fn is_negotiation(packet: &[u8]) -> bool {
    matches!(packet, [first, 0, 0, 0, 0, ..] if first & 0x80 != 0)
}

/// What the kernel allows, and what it lost.
pub(super) fn buffers() -> Buffers {
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse().ok();
    let (four, six) = (fs::read_to_string("/proc/net/snmp"), fs::read_to_string("/proc/net/snmp6"));
    Buffers {
        receive_max: number("/proc/sys/net/core/rmem_max"),
        send_max: number("/proc/sys/net/core/wmem_max"),
        lost: lost_of_four(&four.unwrap_or_default()) + lost_of_six(&six.unwrap_or_default()),
    }
}

/// Names in one line of `/proc/net/snmp`, numbers in the next.
fn lost_of_four(text: &str) -> u64 {
    let mut lines = text.lines().filter(|line| line.starts_with("Udp: "));
    let (names, numbers) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let pair = names.split_whitespace().zip(numbers.split_whitespace()).find(|(name, _)| *name == "RcvbufErrors");
    pair.and_then(|(_, number)| number.parse().ok()).unwrap_or(0)
}

fn lost_of_six(text: &str) -> u64 {
    let number = text.lines().find_map(|line| line.strip_prefix("Udp6RcvbufErrors"));
    number.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}

/// The end of the root certificate, where it is there and readable.
pub(super) fn root(state_dir: &Path) -> Option<Timestamp> {
    let pem = fs::read(state_dir.join("ca/root.crt")).ok()?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).ok()?;
    let end = pem.parse_x509().ok()?.validity().not_after.timestamp();
    Some(Timestamp::from_secs(end))
}

/// The state directory and its disk.
pub(super) fn state(dir: &Path) -> State {
    let path = dir.display().to_string();
    let about = match fs::metadata(dir) {
        Ok(about) => about,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return State::Missing(path),
        Err(_) => return State::Closed(path),
    };
    let Ok(disk) = rustix::fs::statvfs(dir) else { return State::Closed(path) };
    let (sync, write_error) = match durable_write(dir) {
        Ok(time) => (Some(time), None),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => (None, None),
        Err(error) => (None, Some(error.to_string())),
    };
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    State::Seen { path, mode: about.permissions().mode() & 0o7777, free, sync, write_error }
}

fn durable_write(dir: &Path) -> io::Result<Duration> {
    let path = dir.join(SCRATCH);
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    let times = file.and_then(|mut file| {
        let mut times = Vec::with_capacity(WRITES);
        for _ in 0..WRITES {
            let begun = SystemClock.now().boot;
            file.write_all(&[0; 4_096])?;
            file.sync_data()?;
            times.push(SystemClock.now().boot.since(begun));
        }
        Ok(times)
    });
    let removed = fs::remove_file(&path);
    let mut times = times?;
    removed?;
    times.sort_unstable();
    Ok(times.get(WRITES / 2).copied().unwrap_or_default())
}

/// Whether the server of the configuration answers; a refusal for want of a password is an answer.
pub(super) fn liveness(config: &Config) -> LivenessSeen {
    let url = match &config.liveness {
        Liveness::Memory => return LivenessSeen::InMemory,
        Liveness::Redis(url) => url.to_string(),
    };
    // What it shows of itself has no password.
    let place = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest);
    let place = place.rsplit_once('@').map_or(place, |(_, place)| place);
    let place = place.split('/').next().unwrap_or_default();
    let at = if place.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) {
        place.to_owned()
    } else {
        format!("{place}:6379")
    };
    let begun = SystemClock.now().boot;
    let asked = || -> io::Result<()> {
        let to = at.to_socket_addrs()?.next().ok_or(io::ErrorKind::NotFound)?;
        let mut stream = TcpStream::connect_timeout(&to, WITHIN)?;
        if url.starts_with("rediss") {
            return Ok(());
        }
        stream.set_read_timeout(Some(WITHIN))?;
        stream.write_all(b"PING\r\n")?;
        stream.read_exact(&mut [0; 1])
    };
    match asked() {
        Ok(()) => LivenessSeen::Answers { at, within: SystemClock.now().boot.since(begun) },
        Err(error) => LivenessSeen::Silent { at, why: error.to_string() },
    }
}

/// What timedatectl says; nothing where it is not there.
pub(super) fn clock() -> Option<bool> {
    let output = Command::new("timedatectl").args(["show", "--property=NTPSynchronized", "--value"]).output().ok()?;
    match String::from_utf8_lossy(&output.stdout).trim() {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    }
}

/// The bound of the running collector's open files.
pub(super) fn file_limit(state_dir: &Path) -> Option<u64> {
    limit_in(&fs::read_to_string(format!("/proc/{}/limits", holder(state_dir)?)).ok()?)
}

fn limit_in(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tables_read() {
        let snmp = "Udp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors\nUdp: 1 2 3 4 55 6\n";
        assert_eq!(lost_of_four(snmp), 55);
        assert_eq!(lost_of_four(""), 0);
        assert_eq!(lost_of_six("Udp6InErrors 3\nUdp6RcvbufErrors                \t7\n"), 7);
        assert_eq!(
            limit_in("Limit  Soft\nMax open files            65536                65536                files\n"),
            Some(65_536)
        );
    }

    #[test]
    fn only_a_list_of_versions_is_an_answer() {
        assert_eq!(greeting().len(), 1_200);
        assert!(is_negotiation(&[0x80, 0, 0, 0, 0, 8]));
        assert!(!is_negotiation(&[0xc0, 0, 0, 0, 1, 8]));
        assert!(!is_negotiation(b"pong"));
        let deaf = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(!answers(deaf.local_addr().unwrap()));
    }

    #[test]
    fn a_look_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let State::Seen { sync, write_error, .. } = state(dir.path()) else { panic!("it is there") };
        assert!(sync.is_some() && write_error.is_none());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(matches!(state(&dir.path().join("gone")), State::Missing(_)));
        assert!(holder(dir.path()).is_none());
    }
}

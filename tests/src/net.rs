//! A relay with weather, for UDP and, where it is asked for, for TCP at the same port: delay, loss, partitions of either direction, a new address for the client.
//!
//! Real sockets on loopback, between a sidecar and a collector that know nothing of it. Each client address
//! gets a socket of its own towards the collector, as behind a NAT; [`Relay::rebind`] replaces those
//! sockets, as a NAT that forgot. The relay keeps the first datagrams of each direction, so that an
//! attacker's replay can be played.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Result, bail};
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

/// Ports that are tried until one is free for both.
const PORT_TRIES: u32 = 32;
/// Datagrams under way in the air; beyond it the newest is lost, as on any full link.
const IN_FLIGHT: usize = 4_096;
/// Datagrams of the client kept for a replay.
const KEPT: usize = 64;
/// Clients behind one relay; beyond it a newcomer's datagrams are dropped.
const CLIENTS: usize = 4_096;

/// What happens to datagrams under way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Weather {
    /// Time that each datagram takes.
    pub delay: Duration,
    /// Datagrams lost, in percent.
    pub loss: u8,
    /// Nothing reaches the collector.
    pub no_up: bool,
    /// Nothing reaches the sidecar.
    pub no_down: bool,
    /// No TCP passes, and what was open is cut.
    pub no_tcp: bool,
}

impl Weather {
    /// Nothing passes.
    #[must_use]
    pub fn partition() -> Self {
        Self { no_up: true, no_down: true, no_tcp: true, ..Self::default() }
    }

    /// As networks are that let no UDP pass.
    #[must_use]
    pub fn no_udp() -> Self {
        Self { no_up: true, no_down: true, ..Self::default() }
    }
}

/// What passed, since the relay began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes from clients.
    pub up: u64,
    /// Bytes from the collector.
    pub down: u64,
}

/// A running relay; it ends when dropped.
#[derive(Debug)]
pub struct Relay {
    addr: SocketAddr,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    front: UdpSocket,
    target: SocketAddr,
    weather: Mutex<Weather>,
    backs: Mutex<HashMap<SocketAddr, Back>>,
    traffic: Mutex<Traffic>,
    kept: Mutex<Vec<Vec<u8>>>,
    rng: Mutex<u64>,
    /// Cancelled to cut what TCP carries.
    cut: Mutex<CancellationToken>,
}

#[derive(Debug, Clone)]
struct Back {
    socket: Arc<UdpSocket>,
    stop: CancellationToken,
}

impl Relay {
    /// Begins to relay to a collector, from a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When no socket can be had.
    pub async fn start(target: SocketAddr) -> Result<Self> {
        Self::around(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?, None, target)
    }

    /// As [`Self::start`], with TCP at the same port.
    ///
    /// # Errors
    /// When no sockets can be had.
    pub async fn start_with_tcp(target: SocketAddr) -> Result<Self> {
        for _ in 0..PORT_TRIES {
            let front = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            if let Ok(tcp) = TcpListener::bind(front.local_addr()?).await {
                return Self::around(front, Some(tcp), target);
            }
        }
        bail!("no port is free for UDP and TCP")
    }

    fn around(front: UdpSocket, tcp: Option<TcpListener>, target: SocketAddr) -> Result<Self> {
        let addr = front.local_addr()?;
        let shared = Arc::new(Shared {
            front,
            target,
            weather: Mutex::default(),
            backs: Mutex::default(),
            traffic: Mutex::default(),
            kept: Mutex::default(),
            rng: Mutex::new(0x9e37_79b9_7f4a_7c15),
            cut: Mutex::default(),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(carry_up(Arc::clone(&shared)));
        if let Some(tcp) = tcp {
            tasks.spawn(carry_tcp(Arc::clone(&shared), tcp));
        }
        Ok(Self { addr, shared, _tasks: tasks })
    }

    /// Where clients dial.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Changes the weather for what is sent from now on.
    pub fn set(&self, weather: Weather) {
        *lock(&self.shared.weather) = weather;
        if weather.no_tcp {
            std::mem::take(&mut *lock(&self.shared.cut)).cancel();
        }
    }

    /// Gives every client a new address towards the collector.
    pub fn rebind(&self) {
        for (_, back) in lock(&self.shared.backs).drain() {
            back.stop.cancel();
        }
    }

    /// What passed so far.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        *lock(&self.shared.traffic)
    }

    /// The first datagrams that clients sent, in order.
    #[must_use]
    pub fn first_flight(&self) -> Vec<Vec<u8>> {
        lock(&self.shared.kept).clone()
    }
}

impl Shared {
    /// Whether a datagram survives, and how long it takes.
    fn fate(&self, up: bool) -> Option<Duration> {
        let weather = *lock(&self.weather);
        if (up && weather.no_up) || (!up && weather.no_down) {
            return None;
        }
        (self.percent() >= weather.loss).then_some(weather.delay)
    }

    /// Evenly from 0 to 99, the same in every run (xorshift).
    fn percent(&self) -> u8 {
        let mut state = lock(&self.rng);
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        u8::try_from(*state % 100).unwrap_or(0)
    }
}

async fn carry_tcp(shared: Arc<Shared>, tcp: TcpListener) {
    let mut open = JoinSet::new();
    loop {
        while open.try_join_next().is_some() {}
        let Ok((mut client, _)) = tcp.accept().await else { continue };
        if lock(&shared.weather).no_tcp || open.len() >= CLIENTS {
            continue;
        }
        let (cut, target) = (lock(&shared.cut).clone(), shared.target);
        open.spawn(async move {
            // A collector that is away shows as an end.
            let Ok(mut collector) = TcpStream::connect(target).await else { return };
            tokio::select! {
                () = cut.cancelled() => {}
                _ = tokio::io::copy_bidirectional(&mut client, &mut collector) => {}
            }
        });
    }
}

async fn carry_up(shared: Arc<Shared>) {
    let mut air = JoinSet::new();
    let mut buffer = vec![0; 2_048];
    loop {
        while air.try_join_next().is_some() {}
        let Ok((length, client)) = shared.front.recv_from(&mut buffer).await else { continue };
        let Some(datagram) = buffer.get(..length).map(<[u8]>::to_vec) else { continue };
        {
            let mut kept = lock(&shared.kept);
            if kept.len() < KEPT {
                kept.push(datagram.clone());
            }
        }
        let Some(delay) = shared.fate(true) else { continue };
        let Some(back) = back_of(&shared, client, &mut air).await else { continue };
        if air.len() < IN_FLIGHT {
            let shared = Arc::clone(&shared);
            lock(&shared.traffic).up += datagram.len() as u64;
            let (socket, target) = (back.socket, shared.target);
            air.spawn(async move { deliver(delay, &socket, &datagram, target).await });
        }
    }
}

/// The socket of a client towards the collector; its way back is carried by a task among `tasks`.
async fn back_of(shared: &Arc<Shared>, client: SocketAddr, tasks: &mut JoinSet<()>) -> Option<Back> {
    if let Some(back) = lock(&shared.backs).get(&client) {
        return Some(back.clone());
    }
    let socket = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.ok()?);
    let back = Back { socket, stop: CancellationToken::new() };
    {
        let mut backs = lock(&shared.backs);
        if backs.len() >= CLIENTS {
            return None;
        }
        backs.insert(client, back.clone());
    }
    let carried = carry_down(Arc::clone(shared), back.clone(), client);
    tasks.spawn(carried);
    Some(back)
}

async fn carry_down(shared: Arc<Shared>, back: Back, client: SocketAddr) {
    let mut air = JoinSet::new();
    let mut buffer = vec![0; 2_048];
    loop {
        while air.try_join_next().is_some() {}
        let received = tokio::select! {
            () = back.stop.cancelled() => return,
            received = back.socket.recv_from(&mut buffer) => received,
        };
        // A port unreachable of a collector that was killed shows here; the next one will be there.
        let Ok((length, _)) = received else { continue };
        let Some(datagram) = buffer.get(..length).map(<[u8]>::to_vec) else { continue };
        let Some(delay) = shared.fate(false) else { continue };
        if air.len() < IN_FLIGHT {
            lock(&shared.traffic).down += datagram.len() as u64;
            let shared = Arc::clone(&shared);
            air.spawn(async move { deliver(delay, &shared.front, &datagram, client).await });
        }
    }
}

async fn deliver(delay: Duration, socket: &UdpSocket, datagram: &[u8], to: SocketAddr) {
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    // What cannot be sent is lost, as on a real link.
    let _ = socket.send_to(datagram, to).await;
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::until::within;

    const SOON: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn carries_both_ways_and_changes_addresses() {
        let collector = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let relay = Relay::start(collector.local_addr().unwrap()).await.unwrap();
        let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let mut buffer = [0; 64];
        let mut seen = Vec::new();
        for _ in 0..2 {
            client.send_to(b"up", relay.addr()).await.unwrap();
            let (_, from) = within(SOON, "up", collector.recv_from(&mut buffer)).await.unwrap().unwrap();
            collector.send_to(b"down", from).await.unwrap();
            within(SOON, "down", client.recv_from(&mut buffer)).await.unwrap().unwrap();
            seen.push(from);
            relay.rebind();
        }
        assert_ne!(seen[0], seen[1]);
        assert_eq!(relay.traffic(), Traffic { up: 4, down: 8 });
        assert_eq!(relay.first_flight(), [b"up", b"up"]);
    }

    #[tokio::test]
    async fn a_partition_lets_nothing_pass() {
        let collector = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let relay = Relay::start(collector.local_addr().unwrap()).await.unwrap();
        let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        relay.set(Weather::partition());
        client.send_to(b"lost", relay.addr()).await.unwrap();
        // The next one overtakes whatever still were under way.
        crate::until::until(SOON, "the lost one arrives at the relay", async || {
            anyhow::ensure!(relay.first_flight().len() == 1, "not yet");
            Ok(())
        })
        .await
        .unwrap();
        relay.set(Weather::default());
        client.send_to(b"found", relay.addr()).await.unwrap();
        let mut buffer = [0; 64];
        let (length, _) = within(SOON, "up", collector.recv_from(&mut buffer)).await.unwrap().unwrap();
        assert_eq!(&buffer[..length], b"found");
    }
}

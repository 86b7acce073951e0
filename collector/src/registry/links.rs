//! The live connection of each service: who holds it, and how to reach it.
//!
//! One service has at most one link; a newer one of the same identity takes its place and the older is
//! told to close. Orders wait in a small outbox that never blocks the sender.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use rollcall_common::{
    code::Code,
    id::{InstanceId, SessionNo},
    identity::Serial,
    time::BootTime,
    wire::{Transport, message::Directive},
};
use tokio::sync::Notify;

use super::{roster::Slot, settings::Dispatch};

/// Orders that may wait for one connection; a connection that does not take them is closed by the last.
const MAX_ORDERS: usize = 8;

/// What a connection is told to do.
#[derive(Debug, Clone)]
pub enum Order {
    /// Say goodbye with this code and close.
    Close(Code),
    /// Pass a directive on.
    Direct(Directive),
    /// Keep this pace from now on, and pass these settings on. The last one counts.
    Settings(Box<Dispatch>),
}

/// Where a connection finds its orders.
#[derive(Debug, Default)]
pub struct Outbox {
    orders: Mutex<Vec<Order>>,
    notify: Notify,
}

impl Outbox {
    /// Waits for an order.
    pub async fn next(&self) -> Order {
        loop {
            let waiting = self.notify.notified();
            if let Some(order) = self.take() {
                return order;
            }
            waiting.await;
        }
    }

    fn take(&self) -> Option<Order> {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        if orders.is_empty() { None } else { Some(orders.remove(0)) }
    }

    fn put(&self, order: Order) {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(order, Order::Close(_)) {
            // Nothing that waits matters any more.
            orders.clear();
        }
        if matches!(order, Order::Settings(_)) {
            orders.retain(|waiting| !matches!(waiting, Order::Settings(_)));
        }
        if orders.len() < MAX_ORDERS {
            orders.push(order);
        } else {
            *orders = vec![Order::Close(Code::Protocol)];
        }
        drop(orders);
        self.notify.notify_one();
    }
}

/// One live connection.
#[derive(Debug, Clone)]
pub struct Link {
    /// The process at the other end.
    pub instance: InstanceId,
    /// Its dial.
    pub session: SessionNo,
    /// The certificate it came with.
    pub serial: Serial,
    /// When that certificate ends, by the clock that never steps: one wrong answer about the time of day must not
    /// end every connection.
    pub ends: BootTime,
    /// Where it comes from, for people.
    pub peer: std::net::SocketAddr,
    /// What carries it.
    pub transport: Transport,
    /// How to reach it.
    pub outbox: Arc<Outbox>,
}

/// All live connections.
#[derive(Debug, Default)]
pub struct Links {
    all: Mutex<All>,
}

#[derive(Debug, Default)]
struct All {
    by_slot: HashMap<Slot, Link>,
    /// How many of them TCP carries.
    over_tcp: usize,
}

impl All {
    fn put(&mut self, slot: Slot, link: Link) -> Option<Link> {
        self.over_tcp += usize::from(link.transport == Transport::Tcp);
        let displaced = self.by_slot.insert(slot, link);
        self.uncount(displaced.as_ref());
        displaced
    }

    fn remove(&mut self, slot: Slot) {
        let removed = self.by_slot.remove(&slot);
        self.uncount(removed.as_ref());
    }

    fn uncount(&mut self, gone: Option<&Link>) {
        let was_tcp = gone.is_some_and(|link| link.transport == Transport::Tcp);
        self.over_tcp = self.over_tcp.saturating_sub(was_tcp.into());
    }
}

impl Links {
    /// Puts a connection in its place; the one that held it is told to close as superseded.
    pub fn attach(&self, slot: Slot, link: Link) {
        let displaced = self.lock().put(slot, link);
        if let Some(old) = displaced {
            old.outbox.put(Order::Close(Code::Superseded));
        }
    }

    /// Takes a connection out, unless another has taken its place.
    pub fn detach(&self, slot: Slot, outbox: &Arc<Outbox>) {
        let mut links = self.lock();
        if links.by_slot.get(&slot).is_some_and(|link| Arc::ptr_eq(&link.outbox, outbox)) {
            links.remove(slot);
        }
    }

    /// The connection of a service.
    #[must_use]
    pub fn get(&self, slot: Slot) -> Option<Link> {
        self.lock().by_slot.get(&slot).cloned()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().by_slot.len()
    }

    /// How many that transport carries.
    #[must_use]
    pub fn carried_by(&self, transport: Transport) -> usize {
        let links = self.lock();
        match transport {
            Transport::Quic => links.by_slot.len().saturating_sub(links.over_tcp),
            Transport::Tcp => links.over_tcp,
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lock().by_slot.is_empty()
    }

    /// Gives one connection an order. Answers whether there was one.
    pub fn order(&self, slot: Slot, order: Order) -> bool {
        let links = self.lock();
        let link = links.by_slot.get(&slot);
        if let Some(link) = link {
            link.outbox.put(order);
        }
        link.is_some()
    }

    /// Gives every connection an order.
    pub fn order_all(&self, order: &Order) {
        for link in self.lock().by_slot.values() {
            link.outbox.put(order.clone());
        }
    }

    /// Closes the connections whose certificates have ended.
    pub fn close_expired(&self, now: BootTime) -> usize {
        let links = self.lock();
        let expired = links.by_slot.values().filter(|link| link.ends < now);
        expired.map(|link| link.outbox.put(Order::Close(Code::CertExpired))).count()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(transport: Transport) -> Link {
        Link {
            instance: InstanceId([1; 16]),
            session: SessionNo(1),
            serial: Serial([1; 16]),
            ends: BootTime(0),
            peer: "192.0.2.7:4711".parse().unwrap(),
            transport,
            outbox: Arc::default(),
        }
    }

    #[test]
    fn links_are_counted_by_what_carries_them_however_they_go() {
        let (links, slots) = (Links::default(), [Slot::new(0, 0), Slot::new(1, 0)]);
        let counted = || Transport::ALL.map(|transport| links.carried_by(transport));
        let (first, second) = (link(Transport::Tcp), link(Transport::Tcp));
        links.attach(slots[0], first.clone());
        links.attach(slots[1], second.clone());
        assert_eq!(counted(), [0, 2]);
        let back = link(Transport::Quic);
        links.attach(slots[0], back.clone());
        assert_eq!(counted(), [1, 1]);
        assert!(matches!(first.outbox.take(), Some(Order::Close(Code::Superseded))));
        links.detach(slots[0], &first.outbox);
        assert_eq!(counted(), [1, 1], "what was displaced takes nothing with it");
        links.detach(slots[1], &second.outbox);
        links.detach(slots[0], &back.outbox);
        assert_eq!((counted(), links.len()), ([0, 0], 0));
    }
}

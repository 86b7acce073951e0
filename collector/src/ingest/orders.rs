//! Orders to one session, heard at any time: also while its peer does not take what is sent to it, and when the collector
//! stops.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use rollcall_common::{code::Code, wire::message::Down};
use tokio_util::sync::CancellationToken;

use super::stream::{Ended, Stream};
use crate::registry::links::{Order, Outbox};

/// Orders that may wait while one frame is sent; a peer that makes more of them wait is closed.
const MOST: usize = 8;

/// The orders of one session.
#[derive(Debug)]
pub(super) struct Orders {
    outbox: Arc<Outbox>,
    draining: CancellationToken,
    /// What was ordered while a frame was sent.
    later: Mutex<VecDeque<Order>>,
}

impl Orders {
    /// Those of this outbox, and the one of a collector that stops.
    pub(super) fn new(outbox: Arc<Outbox>, draining: CancellationToken) -> Self {
        Self { outbox, draining, later: Mutex::default() }
    }

    /// Waits for the next one; safe to cancel.
    pub(super) async fn next(&self) -> Order {
        if let Some(order) = self.later().pop_front() {
            return order;
        }
        self.fresh().await
    }

    /// Sends a frame, unless the session is ordered to close meanwhile.
    pub(super) async fn send(&self, stream: &mut Stream, frame: &Down) -> Result<(), Ended> {
        self.unless_closed(stream.send(frame)).await.unwrap_or_else(|code| Err(Ended::Broke(code)))
    }

    /// What comes of it, unless the session is ordered to close before; other orders wait for their turn.
    async fn unless_closed<T>(&self, doing: impl Future<Output = T>) -> Result<T, Code> {
        let mut doing = std::pin::pin!(doing);
        loop {
            tokio::select! {
                biased;
                done = &mut doing => return Ok(done),
                order = self.fresh() => match order {
                    Order::Close(code) => return Err(code),
                    other if self.later().len() < MOST => self.later().push_back(other),
                    Order::Direct(_) | Order::Settings(_) => return Err(Code::Protocol),
                }
            }
        }
    }

    async fn fresh(&self) -> Order {
        tokio::select! {
            biased;
            () = self.draining.cancelled() => Order::Close(Code::Draining),
            order = self.outbox.next() => order,
        }
    }

    fn later(&self) -> std::sync::MutexGuard<'_, VecDeque<Order>> {
        self.later.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use rollcall_common::{
        id::{InstanceId, SessionNo},
        identity::Serial,
        time::BootTime,
        wire::{
            Transport,
            message::{Addresses, Directive},
        },
    };

    use super::*;
    use crate::registry::{
        links::{Link, Links},
        roster::Slot,
    };

    fn attached() -> (Links, Orders, CancellationToken) {
        let (links, outbox, draining) = (Links::default(), Arc::<Outbox>::default(), CancellationToken::new());
        let link = Link {
            instance: InstanceId([1; 16]),
            session: SessionNo(1),
            serial: Serial([1; 16]),
            ends: BootTime(0),
            peer: "192.0.2.7:4711".parse().unwrap(),
            transport: Transport::Tcp,
            outbox: Arc::clone(&outbox),
        };
        links.attach(Slot::new(0, 0), link);
        (links, Orders::new(outbox, draining.clone()), draining)
    }

    fn direct() -> Order {
        Order::Direct(Directive::Addresses(Addresses { revision: 1, list: Vec::new() }))
    }

    #[tokio::test]
    async fn a_peer_that_takes_nothing_is_revoked_at_once() {
        let (links, orders, _draining) = attached();
        links.order_all(&Order::Close(Code::Revoked));
        let stuck = tokio::time::timeout(std::time::Duration::from_secs(30), orders.unless_closed(pending::<()>()));
        assert_eq!(stuck.await.unwrap(), Err(Code::Revoked));
    }

    #[tokio::test]
    async fn other_orders_wait_until_the_frame_is_sent_and_no_more_than_a_few() {
        let (links, orders, _draining) = attached();
        let tell = async {
            for _ in 0..3 {
                links.order_all(&direct());
                tokio::task::yield_now().await;
            }
        };
        let mut tell = std::pin::pin!(tell);
        let told = async {
            tokio::select! {
                biased;
                () = pending() => {}
                () = &mut tell => {}
            }
        };
        assert_eq!(orders.unless_closed(told).await, Ok(()));
        for _ in 0..3 {
            assert!(matches!(orders.next().await, Order::Direct(_)));
        }
        let flood = async {
            loop {
                links.order_all(&direct());
                tokio::task::yield_now().await;
            }
        };
        assert_eq!(orders.unless_closed::<()>(flood).await, Err(Code::Protocol));
    }

    #[tokio::test]
    async fn a_session_that_comes_while_the_collector_stops_hears_of_it() {
        let (_links, orders, draining) = attached();
        draining.cancel();
        assert!(matches!(orders.next().await, Order::Close(Code::Draining)));
    }
}

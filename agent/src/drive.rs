//! Drives one session: performs what it orders over links, feeds it what happens.
//!
//! What only the owner can do (keep a certificate on disk, rejoin, log) comes out of [`Drive::next`] as a
//! [`Wish`]. A load generator may own thousands of these over a few shared dialers, with identities in
//! memory. Each connection is one task: it carries frames and decides nothing. Its mailbox holds
//! [`MAILBOX`] frames; a connection that lets it fill up is stuck and is reported as lost.

use std::{sync::Arc, time::Duration};

use rollcall_common::{
    address::Address,
    code::Code,
    id::SessionNo,
    time::{BootTime, Clock, Now},
    wire::{
        message::{Addresses, Down, Up},
        settings::Settings,
    },
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};
use tracing::Instrument;

use crate::{
    carriage::Carriage,
    identity::Identity,
    key::Key,
    link::{Dialer, Link, LinkError},
    session::{Action, Dial, End, Event, Notice, Paper, Session, Setup, View},
};

/// Frames that may wait for one connection.
const MAILBOX: usize = 16;
/// Happenings that may wait for the session; when full, connections wait, and through QUIC's flow
/// control their collectors do.
const HAPPENINGS: usize = 32;

/// What only the owner can do.
#[derive(Debug)]
pub enum Wish {
    /// Make a key and keep it; answer with [`Drive::key_made`] or [`Drive::keeping_failed`].
    MakeKey,
    /// Keep this as the next identity; answer with [`Drive::next_kept`] or [`Drive::keeping_failed`].
    KeepNext(Box<Identity>),
    /// This certificate was accepted: it is the current one, and the other is worthless.
    Adopt(Paper),
    /// The next identity is worthless.
    DropNext,
    /// Remember these addresses.
    KeepAddresses(Addresses),
    /// Judge these settings and apply them if they may be; answer with [`Event::InForce`].
    Apply(Box<Settings>),
    /// The certificate expired: rejoin, keep the result as the next identity, answer with
    /// [`Drive::rejoined`].
    Rejoin,
    /// For logs and status.
    Note(Notice),
    /// The session is over.
    Ended,
}

/// A session with its connections.
#[derive(Debug)]
pub struct Drive {
    session: Session,
    dialer: Arc<Dialer>,
    clock: Arc<dyn Clock>,
    current: Arc<Identity>,
    next: Option<Arc<Identity>>,
    /// The key of the renewal under way.
    renewing: Option<Arc<Key>>,
    lines: Vec<Line>,
    tasks: JoinSet<()>,
    happenings: mpsc::Receiver<Event>,
    report: mpsc::Sender<Event>,
}

/// Our end of a connection's task.
#[derive(Debug)]
struct Line {
    no: SessionNo,
    orders: mpsc::Sender<Order>,
    close: oneshot::Sender<Code>,
}

#[derive(Debug)]
enum Order {
    Send(Up),
    Finish,
}

/// The parts of a [`Setup`] that do not follow from the identities.
#[derive(Debug, Clone)]
pub struct Manner {
    /// This process.
    pub instance_id: rollcall_common::id::InstanceId,
    /// The host's boot.
    pub boot_id: rollcall_common::id::BootId,
    /// Where to dial, best first.
    pub addresses: Vec<Address>,
    /// Whether a collector may replace the addresses.
    pub follow_addresses: bool,
    /// How often a barred sidecar tries again.
    pub revoked_retry: Duration,
    /// When to dial first, counted from now.
    pub first_dial_in: Duration,
    /// Seed of all jitter.
    pub seed: u64,
    /// What is known of transports.
    pub carriage: Carriage,
}

impl Drive {
    /// A session of that identity; `next` is one that was kept but not yet proven.
    #[must_use]
    pub fn new(
        current: Identity,
        next: Option<Identity>,
        manner: Manner,
        dialer: Arc<Dialer>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let Manner { instance_id, boot_id, addresses, follow_addresses, revoked_retry, first_dial_in, seed, carriage } =
            manner;
        let setup = Setup {
            service: current.service().clone(),
            instance_id,
            boot_id,
            addresses,
            follow_addresses,
            current: current.term(),
            next: next.as_ref().map(Identity::term),
            revoked_retry,
            first_dial_in,
            seed,
            carriage,
        };
        let (report, happenings) = mpsc::channel(HAPPENINGS);
        Self {
            session: Session::new(setup, clock.now()),
            dialer,
            clock,
            current: Arc::new(current),
            next: next.map(Arc::new),
            renewing: None,
            lines: Vec::new(),
            tasks: JoinSet::new(),
            happenings,
            report,
        }
    }

    /// Runs the session until its owner is needed. Cancel-safe.
    pub async fn next(&mut self) -> Wish {
        loop {
            while let Some(action) = self.session.next_action() {
                if let Some(wish) = self.perform(action) {
                    return wish;
                }
            }
            let wait = until(self.session.deadline(), self.clock.now());
            let event = tokio::select! {
                Some(event) = self.happenings.recv() => event,
                () = tokio::time::sleep(wait) => Event::Tick,
                Some(_) = self.tasks.join_next() => continue,
            };
            if let Event::Closed(no, _) = &event {
                self.lines.retain(|line| line.no != *no);
            }
            self.tell(event);
        }
    }

    /// Tells the session that something happened on the owner's side.
    pub fn tell(&mut self, event: Event) {
        self.session.handle(event, self.clock.now());
    }

    /// Answers [`Wish::MakeKey`].
    pub fn key_made(&mut self, key: Key) {
        match key.request() {
            Ok(csr) => {
                self.renewing = Some(Arc::new(key));
                self.tell(Event::KeyMade(csr));
            }
            Err(error) => self.keeping_failed(&error),
        }
    }

    /// Answers [`Wish::KeepNext`].
    pub fn next_kept(&mut self, next: Identity) {
        let term = next.term();
        self.next = Some(Arc::new(next));
        self.tell(Event::NextKept(term));
    }

    /// Answers [`Wish::MakeKey`] and [`Wish::KeepNext`] where it did not work.
    pub fn keeping_failed(&mut self, why: &dyn std::fmt::Display) {
        self.tell(Event::KeepingFailed(why.to_string()));
    }

    /// Answers [`Wish::Rejoin`]; `carriage` is what was known of transports before, and what was learned since.
    pub fn rejoined(&mut self, next: Identity, carriage: Carriage) {
        let term = next.term();
        self.next = Some(Arc::new(next));
        self.tell(Event::Rejoined(term, Box::new(carriage)));
    }

    /// Fulfills a wish without any disk, for identities that live in memory only. Gives back what it
    /// cannot fulfill: rejoin, notes, the end.
    pub fn fulfill_in_memory(&mut self, wish: Wish) -> Option<Wish> {
        match wish {
            Wish::MakeKey => match Key::generate() {
                Ok(key) => self.key_made(key),
                Err(error) => self.keeping_failed(&error),
            },
            Wish::KeepNext(next) => self.next_kept(*next),
            Wish::Adopt(_) | Wish::DropNext | Wish::KeepAddresses(_) | Wish::Apply(_) => {}
            other @ (Wish::Rejoin | Wish::Note(_) | Wish::Ended) => return Some(other),
        }
        None
    }

    /// The identity in use.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.current
    }

    /// Every identity at hand, the newest first: one that is not yet proven, then the one in use.
    #[must_use]
    pub fn identities(&self) -> Vec<Identity> {
        self.next.iter().chain([&self.current]).map(|identity| Identity::clone(identity)).collect()
    }

    /// What is known of transports, for a rejoin.
    #[must_use]
    pub fn carriage(&self) -> Carriage {
        self.session.carriage().clone()
    }

    /// What can be seen of the session.
    #[must_use]
    pub fn view(&self) -> View {
        self.session.view()
    }

    fn perform(&mut self, action: Action) -> Option<Wish> {
        match action {
            Action::Dial(dial) => self.dial(dial),
            Action::Send(no, up) => self.order(no, Order::Send(up)),
            Action::Finish(no) => self.order(no, Order::Finish),
            Action::Close(no, code) => {
                if let Some(at) = self.lines.iter().position(|line| line.no == no) {
                    // A task that is gone has nothing left to close.
                    let _ = self.lines.swap_remove(at).close.send(code);
                }
            }
            Action::MakeKey => return Some(Wish::MakeKey),
            Action::KeepNext(renewed) => {
                let key = self.renewing.take()?;
                match self.current.successor(key, renewed) {
                    Ok(next) => return Some(Wish::KeepNext(Box::new(next))),
                    Err(error) => self.keeping_failed(&error),
                }
            }
            Action::Adopt(paper) => {
                let next = self.next.take();
                if let (Paper::Next, Some(next)) = (paper, next) {
                    self.current = next;
                }
                return Some(Wish::Adopt(paper));
            }
            Action::DropNext => {
                self.next = None;
                return Some(Wish::DropNext);
            }
            Action::KeepAddresses(addresses) => return Some(Wish::KeepAddresses(addresses)),
            Action::Apply(settings) => return Some(Wish::Apply(settings)),
            Action::Rejoin => return Some(Wish::Rejoin),
            Action::Note(notice) => return Some(Wish::Note(notice)),
            Action::Ended => return Some(Wish::Ended),
        }
        None
    }

    fn dial(&mut self, dial: Dial) {
        let identity = match (dial.paper, &self.next) {
            (Paper::Next, Some(next)) => next,
            (Paper::Next, None) | (Paper::Current, _) => &self.current,
        };
        let no = dial.no;
        let tls = match identity.beat_tls(Arc::clone(&self.clock)) {
            Ok(tls) => tls,
            Err(error) => return self.tell(Event::Closed(no, End::Lost(format!("TLS settings: {error}")))),
        };
        let (orders, mailbox) = mpsc::channel(MAILBOX);
        let (close, closing) = oneshot::channel();
        let (dialer, report) = (Arc::clone(&self.dialer), self.report.clone());
        let span = tracing::debug_span!("link", session = no.0, collector = %dial.address);
        let carry = async move {
            let mut closing = closing;
            let link = tokio::select! {
                link = dialer.dial(&dial.address, dial.variant, dial.ways, dial.head_start, tls) => link,
                _ = &mut closing => return,
            };
            let end = match link {
                Ok(link) => carry(no, link, mailbox, closing, &report).await,
                Err(error) => Some(error),
            };
            if let Some(error) = end {
                // The session is gone when its mailbox is.
                let _ = report.send(Event::Closed(no, error.into())).await;
            }
        };
        self.tasks.spawn(carry.instrument(span));
        self.lines.push(Line { no, orders, close });
    }

    fn order(&mut self, no: SessionNo, order: Order) {
        let Some(line) = self.lines.iter().find(|line| line.no == no) else { return };
        if line.orders.try_send(order).is_err() {
            self.lines.retain(|line| line.no != no);
            self.tell(Event::Closed(no, End::Lost("the connection takes no more frames".into())));
        }
    }
}

/// Carries frames both ways until the connection ends, which gives a reason, or is closed from here.
async fn carry(
    no: SessionNo,
    mut link: Link,
    mut mailbox: mpsc::Receiver<Order>,
    mut closing: oneshot::Receiver<Code>,
    report: &mpsc::Sender<Event>,
) -> Option<LinkError> {
    if report.send(Event::Opened(no, link.transport())).await.is_err() {
        return None;
    }
    let outcome = loop {
        let step = tokio::select! {
            biased;
            code = &mut closing => break code,
            down = link.recv() => Step::Received(down),
            Some(order) = mailbox.recv() => Step::Ordered(order),
        };
        let done = async {
            match step {
                Step::Received(down) => {
                    // An unreachable session closes us through the other arm.
                    let _ = report.send(Event::Frame(no, down?)).await;
                }
                Step::Ordered(Order::Send(up)) => link.send(&up).await?,
                Step::Ordered(Order::Finish) => {
                    link.finish().await?;
                    let _ = report.send(Event::Delivered(no)).await;
                }
            }
            Ok::<(), LinkError>(())
        };
        tokio::select! {
            done = done => if let Err(error) = done {
                if let LinkError::Frame(frame) = &error {
                    link.close(frame.code());
                }
                return Some(error);
            },
            code = &mut closing => break code,
        }
    };
    // A dropped handle means that the session is gone without a word.
    link.close(outcome.unwrap_or(Code::Goodbye));
    None
}

enum Step {
    Received(Result<Down, LinkError>),
    Ordered(Order),
}

/// How long to sleep; without a deadline, until something happens.
fn until(deadline: Option<BootTime>, now: Now) -> Duration {
    const LONG: Duration = Duration::from_secs(3600);
    deadline.map_or(LONG, |at| at.since(now.boot).min(LONG))
}

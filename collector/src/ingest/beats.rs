//! A heartbeat connection: greet, then touch and acknowledge.

use std::{sync::Arc, time::Duration};

use rollcall_common::{
    code::Code,
    health::Progress,
    lease::Pace,
    wire::{
        BEAT_VERSION,
        message::{Directive, Down, HelloAck, Refused, Renewed, capability},
        settings::Settings,
    },
};
use serde_json::json;
use tokio::sync::oneshot;
use tracing::Instrument;

use super::{
    CHANGE_WITHIN, Context, Sidecar, Unheard, admits, children,
    notes::Notes,
    orders::Orders,
    session::{Session, Step},
    stream::{Ended, Stream},
};
use crate::{
    admission::Lane,
    ca::Ca,
    metrics::CodeLabel,
    registry::{
        Notice, Refusal,
        identities::{Granted, Promote, Renew},
        leases::Touch,
        links::{Link, Order, Outbox},
        roster::Slot,
        services::{By, acts::Reinstate},
        settings::{Dispatch, Heard, longest, progress_of, unwatched},
    },
    store::rows::ServiceRow,
};

/// Share of a certificate's life after which it should be renewed.
const RENEW_AT: u32 = 2;

/// Clocks that differ by more are worth a warning; no lease depends on them.
const SKEW_MS: i64 = 30_000;

/// The pace to grant, and what the sidecar may keep until it echoes that one.
type Paces = (Pace, Option<Pace>);
type RenewAnswer = oneshot::Receiver<Result<Granted, Refusal>>;

/// Serves one sidecar until it leaves or is sent away.
pub(super) async fn serve(context: Arc<Context>, stream: Stream, sidecar: Sidecar, unheard: Unheard) {
    let span = tracing::info_span!("sidecar", service = %sidecar.service, from = %sidecar.from);
    let outbox = Arc::new(Outbox::default());
    let _attached = Attached { context: &context, slot: sidecar.slot, outbox: &outbox };
    let orders = Orders::new(Arc::clone(&outbox), context.draining.clone());
    let beats = Beats { context: &context, sidecar, outbox: &outbox, orders };
    beats.run(stream, unheard).instrument(span).await;
}

/// Takes the link out again, however the session ends.
struct Attached<'a> {
    context: &'a Context,
    slot: Slot,
    outbox: &'a Arc<Outbox>,
}

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        self.context.registry.links().detach(self.slot, self.outbox);
    }
}

struct Beats<'a> {
    context: &'a Arc<Context>,
    sidecar: Sidecar,
    outbox: &'a Arc<Outbox>,
    orders: Orders,
}

impl Beats<'_> {
    async fn run(self, mut stream: Stream, unheard: Unheard) {
        let ended = match self.greet(&mut stream, unheard).await {
            Ok((mut session, dispatch)) => self.attend(&mut stream, &mut session, dispatch).await,
            Err(ended) => ended,
        };
        self.end(stream, ended).await;
    }

    async fn end(&self, stream: Stream, ended: Ended) {
        let (code, retry_after) = match ended {
            Ended::Gone => return tracing::debug!("gone"),
            Ended::Broke(code) => (code, Duration::ZERO),
            Ended::Later(wait) => (Code::Busy, wait),
        };
        tracing::debug!(%code, "closing");
        self.context.registry.metrics().closed.get_or_create(&CodeLabel { code: code.as_str() }).inc();
        stream.bye(code, retry_after).await;
    }

    async fn greet(&self, stream: &mut Stream, unheard: Unheard) -> Result<(Session, (Paces, Option<u64>)), Ended> {
        let first = self.context.unless_draining(stream.first()).await?;
        drop(unheard);
        let registry = &self.context.registry;
        let now = registry.now();
        let admitted = self.context.lanes(|lanes| lanes.admit(Lane::Hello, now.boot));
        if let Err(wait) = self.context.asked("hello", admitted) {
            return Err(Ended::Later(wait));
        }
        let (session, hello) = Session::greet(first, &self.sidecar.service, now.boot).map_err(|code| {
            if code == Code::IdentityMismatch {
                self.tell_audit("identity.mismatch", json!({ "from": self.sidecar.from.to_string() }));
            }
            Ended::Broke(code)
        })?;
        registry.links().attach(
            self.sidecar.slot,
            Link {
                instance: session.instance,
                session: session.session,
                serial: self.sidecar.cert.serial,
                ends: now.boot.after(self.sidecar.not_after.since(now.wall)),
                peer: self.sidecar.from,
                transport: stream.transport(),
                outbox: Arc::clone(self.outbox),
            },
        );
        self.reinstate().await?;
        // From here on the registry can reach this session; what it changed since the gate is seen now.
        admits(self.context, &self.sidecar.service, &self.sidecar.cert).map_err(Ended::Broke)?;
        stream.greeted();
        registry.metrics().greeted(stream.transport());
        let skew_ms = now.wall.0.saturating_sub(hello.clock.0);
        tracing::debug!(session = session.session.0, instance = %session.instance, skew_ms, "greeted");
        if skew_ms.saturating_abs() > SKEW_MS {
            registry.metrics().skewed.inc();
            tracing::warn!(skew_ms, "the sidecar's clock is off; its certificate may seem over or not begun to it");
        }
        let Dispatch { pace, settings, wants, awaited } =
            registry.dispatch(self.sidecar.slot).ok_or(Ended::Broke(Code::UnknownIdentity))?;
        let addresses = self.context.addresses.load_full();
        let half_life = self.context.ca.leaf_ttl() / RENEW_AT;
        self.orders
            .send(
                stream,
                &Down::HelloAck(HelloAck {
                    version: BEAT_VERSION,
                    capabilities: hello.capabilities & capability::OURS,
                    pace: pace.0.into(),
                    addresses_revision: addresses.revision,
                    server_time: now.wall,
                    renew_at: self.sidecar.not_after.before(half_life),
                }),
            )
            .await?;
        if !addresses.list.is_empty() {
            self.orders.send(stream, &Down::Directive(Directive::Addresses((*addresses).clone()))).await?;
        }
        self.settle(stream, &session, settings, wants).await?;
        self.disown(&session).await;
        Ok((session, (pace, awaited)))
    }

    /// Passes settings on to a sidecar that knows some.
    async fn settle(
        &self,
        stream: &mut Stream,
        session: &Session,
        settings: Settings,
        wants: bool,
    ) -> Result<(), Ended> {
        if session.has(capability::SETTINGS) {
            return self.orders.send(stream, &Down::Settings(Box::new(settings))).await;
        }
        if wants {
            self.context.registry.tell_surely(Notice::Settings(self.sidecar.slot, Heard::Unsupported)).await;
        }
        Ok(())
    }

    /// What an older program of the same sidecar said, and this one does not, is not so any more.
    async fn disown(&self, session: &Session) {
        let (registry, slot) = (&self.context.registry, self.sidecar.slot);
        let watched = |row: &ServiceRow| progress_of(row) != Progress::Unwatched;
        if !session.has(capability::PROGRESS)
            && registry.read(|roster| roster.at(slot).is_some_and(|entry| watched(&entry.row)))
        {
            registry.tell_surely(Notice::Progress(slot, unwatched())).await;
        }
    }

    /// The archive job had retired it for its silence, and here it is.
    async fn reinstate(&self) -> Result<(), Ended> {
        let (registry, key) = (&self.context.registry, &self.sidecar.service);
        if !registry.read(|roster| roster.get(key).is_some_and(|entry| entry.row.archived)) {
            return Ok(());
        }
        let request = Reinstate { key: key.clone(), serial: self.sidecar.cert.serial };
        match tokio::time::timeout(CHANGE_WITHIN, registry.ask(request)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(Refusal::Busy | Refusal::Store(_))) | Err(_) => Err(Ended::Later(CHANGE_WITHIN)),
            Ok(Err(refusal)) => Err(Ended::Broke(refusal.code())),
        }
    }

    async fn attend(&self, stream: &mut Stream, session: &mut Session, granted: (Paces, Option<u64>)) -> Ended {
        let (mut pace, awaited) = granted;
        let mut renewing: Option<RenewAnswer> = None;
        let mut notes = Notes::new(self.context.registry.now().boot);
        notes.awaited = awaited;
        if self.sidecar.fresh {
            self.promote().await;
        }
        loop {
            while let Some(frame) = match stream.take() {
                Ok(frame) => frame,
                Err(ended) => return ended,
            } {
                let now = self.context.registry.now().boot;
                let step = session.on_frame(frame, now, pace);
                if let Err(ended) = self.perform(step, session, stream, &mut renewing, &mut notes).await {
                    return ended;
                }
            }
            tokio::select! {
                biased;
                order = self.orders.next() => match order {
                    Order::Close(code) => return Ended::Broke(code),
                    Order::Direct(directive) => {
                        if let Err(ended) = self.orders.send(stream, &Down::Directive(directive)).await {
                            return ended;
                        }
                    }
                    Order::Settings(dispatch) => {
                        let Dispatch { pace: (next, _), settings, wants, awaited } = *dispatch;
                        notes.awaited = awaited;
                        if next != pace.0 {
                            // It beats at what it was granted until it has heard of the next one.
                            session.repaced(self.context.registry.now().boot);
                            pace = (next, Some(pace.1.map_or(pace.0, |older| longest(pace.0, older))));
                        }
                        if let Err(ended) = self.settle(stream, session, settings, wants).await {
                            return ended;
                        }
                    }
                },
                answer = settled(&mut renewing), if renewing.is_some() => {
                    renewing = None;
                    if let Err(ended) = self.renewed(stream, answer).await {
                        return ended;
                    }
                }
                () = notes.due() => notes.tell(&self.context.registry, self.sidecar.slot).await,
                filled = stream.fill() => {
                    if let Err(ended) = filled {
                        return ended;
                    }
                }
            }
        }
    }

    async fn perform(
        &self,
        step: Step,
        session: &mut Session,
        stream: &mut Stream,
        renewing: &mut Option<RenewAnswer>,
        notes: &mut Notes,
    ) -> Result<(), Ended> {
        let registry = &self.context.registry;
        let slot = self.sidecar.slot;
        match step {
            Step::Beat { beat_no, pace, echoes, ack } => {
                let now = registry.now().boot;
                registry.metrics().beats.inc();
                if registry.leases().touch(slot, session.session, beat_no, pace, now) == Touch::Woke {
                    registry.tell(Notice::Woke(slot));
                }
                self.orders.send(stream, &Down::Ack(ack)).await?;
                if let Some(revision) = notes.awaited.take_if(|_| echoes) {
                    registry.tell_surely(Notice::Paced(slot, revision)).await;
                }
                notes.tell(registry, slot).await;
            }
            Step::Throttle(ack) => {
                registry.metrics().throttled.inc();
                self.orders.send(stream, &Down::Ack(ack)).await?;
            }
            Step::Replayed { beat_no, first } => {
                registry.metrics().replayed.inc();
                if first {
                    self.tell_audit("beat.replayed", json!({ "beat_no": beat_no, "session": session.session }));
                }
            }
            Step::Health(report) => {
                notes.health = Some(report);
                notes.tell(registry, slot).await;
            }
            Step::Facts(facts) => {
                notes.facts = Some(facts);
                notes.tell(registry, slot).await;
            }
            Step::Progress(report) => {
                notes.progress = Some(report);
                notes.tell(registry, slot).await;
            }
            Step::Settings(state) => {
                notes.settings = Some(state);
                notes.tell(registry, slot).await;
            }
            Step::About(about) => {
                notes.about = Some(about);
                notes.tell(registry, slot).await;
            }
            Step::Children(batch) => {
                let ack =
                    children::hear(self.context, &self.sidecar.service, session.session, *batch, &mut notes.families);
                let foreign = ack.refused.iter().find(|refused| refused.code == Code::ChildOfAnother);
                if let Some(refused) = foreign.filter(|_| !std::mem::replace(&mut notes.foreign, true)) {
                    self.tell_audit("child.of_another", json!({ "batch_no": ack.batch_no, "index": refused.index }));
                }
                self.orders.send(stream, &Down::Children(Box::new(ack))).await?;
            }
            Step::ChildrenGone(gone) => {
                let ack = children::part(registry, &self.sidecar.service, *gone).await;
                self.orders.send(stream, &Down::Children(Box::new(ack))).await?;
            }
            Step::ChildrenThrottled(ack) => {
                registry.metrics().child_throttled.inc();
                self.orders.send(stream, &Down::Children(Box::new(ack))).await?;
            }
            // One at a time: what a second one asks for is on its way.
            Step::Renew(_) if renewing.is_some() => {}
            Step::Renew(csr) if session.may_renew(registry.now().boot) => self.renew(csr, renewing),
            Step::Renew(_) => self.orders.send(stream, &Down::Refused(refused(self.context, Code::Busy))).await?,
            Step::Goodbye(goodbye) => {
                // A goodbye of a connection that was replaced says nothing about the service.
                if registry.links().get(slot).is_some_and(|link| Arc::ptr_eq(&link.outbox, self.outbox)) {
                    registry.tell_surely(Notice::Goodbye(slot, goodbye)).await;
                }
                return Err(Ended::Broke(Code::Goodbye));
            }
            Step::Close(code) => return Err(Ended::Broke(code)),
        }
        Ok(())
    }

    /// Starts a renewal; beats go on while the change commits.
    fn renew(&self, csr: Vec<u8>, renewing: &mut Option<RenewAnswer>) {
        let (reply, answer) = oneshot::channel();
        *renewing = Some(answer);
        let csr = match Ca::read_csr(&csr) {
            Ok(csr) => csr,
            Err(error) => {
                tracing::warn!(%error, "a renewal with a bad certificate request");
                let _ = reply.send(Err(Refusal::Wire(Code::CsrInvalid)));
                return;
            }
        };
        let request = Renew {
            service: self.sidecar.service.clone(),
            serial: self.sidecar.cert.serial,
            csr,
            ca: Arc::clone(&self.context.ca),
        };
        let context = Arc::clone(self.context);
        self.context.tasks.spawn(async move {
            let asked = tokio::time::timeout(CHANGE_WITHIN, context.registry.ask(request)).await;
            // A session that has ended does not need its answer; the certificate stays pending.
            let _ = reply.send(asked.unwrap_or(Err(Refusal::Wire(Code::StoreUnavailable))));
        });
    }

    async fn renewed(&self, stream: &mut Stream, answer: Result<Granted, Refusal>) -> Result<(), Ended> {
        match answer {
            Ok(granted) => {
                self.context.registry.metrics().renewed.inc();
                self.orders.send(stream, &Down::Renewed(Box::new(certificate(&self.context.ca, granted)))).await
            }
            Err(refusal) => {
                let code = refusal.code();
                tracing::info!(%refusal, "no renewal");
                self.context.count_refusal(code);
                self.orders.send(stream, &Down::Refused(refused(self.context, code))).await
            }
        }
    }

    /// Makes the presented certificate current. Both stay valid until this is durable, so nobody waits.
    async fn promote(&self) {
        let request = Promote { service: self.sidecar.service.clone(), serial: self.sidecar.cert.serial };
        let context = Arc::clone(self.context);
        self.context.tasks.spawn(async move {
            if let Err(refusal) = context.registry.ask(request).await {
                tracing::info!(%refusal, "a certificate was not made current; its next session will");
            }
        });
    }

    fn tell_audit(&self, action: &str, details: serde_json::Value) {
        let registry = &self.context.registry;
        let by = By::sidecar(&self.sidecar.service);
        let draft = by.did(registry.now().wall, action, self.sidecar.service.to_string(), [("evidence", details)]);
        registry.tell(Notice::Audit(Box::new(draft)));
    }
}

async fn settled(renewing: &mut Option<RenewAnswer>) -> Result<Granted, Refusal> {
    match renewing {
        Some(answer) => answer.await.unwrap_or(Err(Refusal::Stopping)),
        None => std::future::pending().await,
    }
}

/// A fresh certificate as it crosses the wire.
pub(super) fn certificate(ca: &Ca, granted: Granted) -> Renewed {
    let bundle = ca.bundle();
    Renewed {
        chain: granted.issued.chain,
        bundle: bundle.roots,
        bundle_revision: bundle.revision,
        generation: granted.issued.serial.generation(),
        not_after: granted.issued.not_after,
        renew_at: granted.issued.renew_at,
    }
}

/// A refusal as it crosses the wire.
pub(super) fn refused(context: &Context, code: Code) -> Refused {
    let retry_after = if code == Code::StoreUnavailable {
        Duration::from_secs(5)
    } else if code == Code::Busy {
        Duration::from_secs(1)
    } else {
        Duration::ZERO
    };
    Refused {
        code,
        retry_after_ms: u32::try_from(retry_after.as_millis()).unwrap_or(u32::MAX),
        server_time: context.registry.now().wall,
    }
}

//! A live session: beats, their acknowledgements, renewal, directives. Part of the pure state machine.

use std::time::Duration;

use rollcall_common::{
    code::Code,
    id::SessionNo,
    lease::Pace,
    time::Now,
    wire::{
        children::{ChildReport, Children, ChildrenGone, MAX_GONE},
        message::{Ack, Beat, Bytes, Directive, Down, Renew, Up, capability},
    },
};

use super::{Action, End, Notice, Phase, Session, millis, pace};

impl Session {
    pub(super) fn beat(&mut self, now: Now) {
        let (Phase::Live(live), Some(pace)) = (&mut self.phase, self.pace) else { return };
        self.last_beat = self.last_beat.next();
        let beat = Beat { beat_no: self.last_beat, pace_no: pace.no };
        live.beats.sent(beat.beat_no, now.boot, self.backoff.jitter(pace.interval(), 5));
        self.actions.push_back(Action::Send(live.no, Up::Beat(beat)));
    }

    pub(super) fn live_frame(&mut self, no: SessionNo, down: Down, now: Now) -> Result<(), String> {
        match down {
            Down::Ack(ack) => return self.acked(ack, now),
            Down::Renewed(renewed) => {
                if self.renewal.is_asked() {
                    self.renewal.keep();
                    self.actions.push_back(Action::KeepNext(*renewed));
                }
            }
            Down::Directive(Directive::Addresses(addresses)) => {
                self.orders.count(now)?;
                if addresses.list.is_empty() {
                    return Err("an empty list of addresses".into());
                }
                if self.setup.follow_addresses {
                    self.rotation.replace(addresses.list.clone());
                }
                self.actions.push_back(Action::KeepAddresses(addresses));
            }
            Down::Directive(Directive::RenewNow) => {
                self.orders.count(now)?;
                let spread = self.pace.map_or(Duration::ZERO, Pace::interval);
                let due = now.boot.after(self.backoff.between(Duration::ZERO, spread));
                self.renewal.hasten(due);
            }
            Down::Refused(refused) if self.renewal.is_asked() => {
                self.renewal_failed(
                    format!("the collector refused: {}", refused.code),
                    millis(refused.retry_after_ms),
                    now,
                );
            }
            Down::Refused(refused) => {
                self.actions.push_back(Action::Close(no, Code::Goodbye));
                self.parted(no, End::Told(refused.code), millis(refused.retry_after_ms), now);
            }
            Down::Bye(bye) => {
                self.actions.push_back(Action::Close(no, Code::Goodbye));
                self.parted(no, End::Told(bye.code), millis(bye.retry_after_ms), now);
            }
            Down::Children(ack) => {
                self.parted_children(ack.batch_no, ack.retry_after_ms > 0);
                if !ack.refused.is_empty() || ack.retry_after_ms > 0 {
                    self.actions.push_back(Action::Note(Notice::ChildrenRefused {
                        batch_no: ack.batch_no,
                        again_in: millis(ack.retry_after_ms),
                        refused: ack.refused,
                    }));
                }
            }
            Down::Settings(settings) => return self.wanted(settings, now),
            Down::HelloAck(_) | Down::Enrolled(_) => {
                return Err("a frame that has no place in a session".into());
            }
        }
        Ok(())
    }

    pub(super) fn acked(&mut self, ack: Ack, now: Now) -> Result<(), String> {
        if ack.beat_no > self.last_beat {
            return Err(format!("it acknowledged beat {}, which was never sent", ack.beat_no));
        }
        let granted = pace(ack.pace)?;
        let Phase::Live(live) = &mut self.phase else { return Ok(()) };
        let Some(sent) = live.beats.acked(ack.beat_no) else { return Ok(()) };
        let throttled = ack.retry_after_ms > 0;
        let changed = self.pace != Some(granted);
        self.pace = Some(granted);
        if throttled {
            let patience = millis(ack.retry_after_ms);
            let patience = self.backoff.between(patience, patience.saturating_add(patience / 10));
            live.beats.defer(now.boot.after(patience));
        } else {
            self.lease_until = Some(sent.after(granted.ttl()));
            if changed {
                live.beats.reschedule(sent.after(self.backoff.jitter(granted.interval(), 5)));
            }
            // A connection that lasted proves that all is well; one that is accepted and dropped at
            // once does not, and must not be redialed in a hot loop.
            if now.boot.since(live.since) >= granted.interval() {
                self.backoff.reset();
            }
        }
        self.last_ack = Some((ack.beat_no, now.boot));
        let after = now.boot.since(sent);
        self.actions.push_back(Action::Note(Notice::Acked { beat_no: ack.beat_no, after, throttled }));
        Ok(())
    }

    /// Sends what is said of the children, where the collector takes it.
    pub(super) fn report_children(&mut self, interval_ms: u32, reports: Vec<ChildReport>) {
        let Phase::Live(live) = &mut self.phase else { return };
        if !live.can(capability::CHILDREN) {
            return;
        }
        let (batches, unfit) = Children::batches(live.batch_no.saturating_add(1), interval_ms, reports);
        for batch in batches {
            live.batch_no = batch.batch_no;
            self.actions.push_back(Action::Send(live.no, Up::Children(Box::new(batch))));
        }
        if !unfit.is_empty() {
            self.actions.push_back(Action::Note(Notice::ChildrenTooLarge(unfit.len())));
        }
    }

    /// Says goodbye for children that are ours no longer, where the collector takes it.
    pub(super) fn part_children(&mut self) {
        let Phase::Live(live) = &mut self.phase else { return };
        if !live.can(capability::CHILDREN_GONE) {
            return;
        }
        for some in self.gone.chunks(MAX_GONE) {
            live.batch_no = live.batch_no.saturating_add(1);
            live.parting_no = Some(live.batch_no);
            let farewell = ChildrenGone { batch_no: live.batch_no, children: some.to_vec() };
            self.actions.push_back(Action::Send(live.no, Up::ChildrenGone(Box::new(farewell))));
        }
    }

    /// Answers come in order: with that to the last goodbye, all were heard. Whoever was asked to wait says them again
    /// at its next greeting.
    fn parted_children(&mut self, batch_no: u64, asked_to_wait: bool) {
        let Phase::Live(live) = &mut self.phase else { return };
        let Some(last) = live.parting_no else { return };
        let first = last.saturating_sub(u64::try_from(self.gone.len().div_ceil(MAX_GONE)).unwrap_or(0));
        if asked_to_wait && (first..=last).contains(&batch_no) {
            live.parting_no = None;
        } else if batch_no == last {
            live.parting_no = None;
            let heard = std::mem::take(&mut self.gone).into_iter().map(|gone| gone.child).collect();
            self.actions.push_back(Action::Note(Notice::ChildrenParted(heard)));
        }
    }

    pub(super) fn ask_renewal(&mut self, csr: Vec<u8>, now: Now) {
        let Phase::Live(live) = &self.phase else { return };
        if self.renewal.ask(now.boot) {
            let renew = Renew { csr: Bytes(csr) };
            self.actions.push_back(Action::Send(live.no, Up::Renew(renew)));
        }
    }

    pub(super) fn renewal_failed(&mut self, why: String, patience: Duration, now: Now) {
        let again_in = self.renewal.failed(now.boot, patience);
        self.actions.push_back(Action::Note(Notice::RenewalFailed { why, again_in }));
    }
}

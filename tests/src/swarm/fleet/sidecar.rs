//! One sidecar of a fleet: the agent's own session, driven, and told what time it is.

use std::{sync::Arc, time::Duration};

use rollcall_agent::{
    carriage::{Carriage, Policy},
    drive::{Drive, Manner, Wish},
    identity::Identity,
    link::Dialer,
    session::{End, Event, Notice},
};
use rollcall_common::{
    address::Address,
    id::{BootId, InstanceId},
    time::{BootTime, Clock},
    wire::message::{Goodbye, GoodbyeReason},
};
use tokio::sync::watch;

use super::{super::tally::Beats, Board, Fate, Stage};

/// How often a barred sidecar would try again: longer than any run.
const REVOKED_RETRY: Duration = Duration::from_secs(3_600);
/// What everybody says who leaves.
const GOODBYE: Goodbye = Goodbye { reason: GoodbyeReason::Stop, back_in_secs: None };

/// A sidecar before it starts.
pub(super) struct Sidecar {
    /// Its place on the board.
    pub(super) n: usize,
    pub(super) identity: Identity,
    pub(super) addresses: Vec<Address>,
    pub(super) fate: Fate,
    /// The sockets of its first life.
    pub(super) dialer: Arc<Dialer>,
    /// The sockets of its second life.
    pub(super) spare: Arc<Dialer>,
    pub(super) board: Arc<Board>,
    pub(super) stage: watch::Receiver<Stage>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) boot_id: BootId,
    pub(super) ramp: Duration,
    pub(super) rng: fastrand::Rng,
}

/// What a life has seen so far.
struct Life {
    beats: Beats,
    live: bool,
    greetings: u64,
    /// When the current or next dial is due.
    due: BootTime,
}

impl Sidecar {
    /// Lives once, or twice where it is revived.
    pub(super) async fn run(mut self) {
        self.live().await;
        self.dialer = Arc::clone(&self.spare);
        // An error means that the fleet itself is gone.
        let next = self.stage.wait_for(|stage| matches!(stage, Stage::Revival | Stage::Leaving)).await;
        if next.is_ok_and(|stage| *stage == Stage::Revival) {
            self.live().await;
        }
    }

    async fn live(&mut self) {
        let first_dial_in = self.ramp.mul_f64(self.rng.f64());
        let manner = Manner {
            instance_id: InstanceId(self.rng.u128(..).to_be_bytes()),
            boot_id: self.boot_id,
            addresses: self.addresses.clone(),
            follow_addresses: false,
            revoked_retry: REVOKED_RETRY,
            first_dial_in,
            seed: self.rng.u64(..),
            carriage: Carriage::new(Policy::Quic, self.rng.u64(..)),
        };
        let (dialer, clock) = (Arc::clone(&self.dialer), Arc::clone(&self.clock));
        let due = clock.now().boot.after(first_dial_in);
        let mut drive = Drive::new(self.identity.clone(), None, manner, dialer, clock);
        let mut life = Life { beats: Beats::default(), live: false, greetings: 0, due };
        loop {
            tokio::select! {
                wish = drive.next() => match drive.fulfill_in_memory(wish) {
                    Some(Wish::Note(notice)) => self.note(&mut life, notice, &drive),
                    Some(Wish::Ended) => break,
                    Some(Wish::Rejoin) => {
                        self.board.ended("the certificate expired", 0, false);
                        break;
                    }
                    None
                    | Some(
                        Wish::MakeKey
                        | Wish::KeepNext(_)
                        | Wish::Adopt(_)
                        | Wish::DropNext
                        | Wish::KeepAddresses(_)
                        | Wish::Apply(_),
                    ) => {}
                },
                changed = self.stage.changed() => {
                    let stage = *self.stage.borrow_and_update();
                    match (stage, self.fate) {
                        // Its sockets are silent by now: nobody hears of this.
                        (Stage::Faults, Fate::Killed) => break,
                        (Stage::Faults, Fate::Stopped) | (Stage::Leaving, _) => {
                            self.board.says_goodbye(self.n, self.clock.now().wall);
                            drive.tell(Event::Stop(GOODBYE));
                        }
                        (Stage::Beating | Stage::Revival, _) | (Stage::Faults, Fate::Steady) => {}
                    }
                    if changed.is_err() {
                        break;
                    }
                }
            }
        }
        if life.live {
            self.board.no_longer_live();
        }
    }

    fn note(&self, life: &mut Life, notice: Notice, drive: &Drive) {
        let now = self.clock.now().boot;
        match notice {
            Notice::Greeted { pace, .. } => {
                self.board.greeted(pace, now.since(life.due), life.greetings > 0);
                life.greetings += 1;
                life.live = true;
            }
            Notice::Acked { beat_no, after, throttled } => {
                let covered = life.beats.acked(beat_no.0);
                self.board.acked(self.n, now, covered, after, throttled);
            }
            Notice::Parted { end, again_in, .. } => {
                let lost = life.beats.cut(drive.view().beat_no.0);
                self.board.ended(&word(&end), lost, matches!(end, End::Silent(_) | End::Unanswered(_)));
                life.due = now.after(again_in.unwrap_or_default());
                if std::mem::take(&mut life.live) {
                    self.board.no_longer_live();
                }
            }
            Notice::Skewed { .. }
            | Notice::ChildrenRefused { .. }
            | Notice::ChildrenParted(_)
            | Notice::ChildrenTooLarge(_)
            | Notice::RenewalFailed { .. }
            | Notice::Turned { .. }
            | Notice::QuicStillAway { .. } => {}
        }
    }
}

/// An end in a few words, without what differs from sidecar to sidecar.
fn word(end: &End) -> String {
    match end {
        End::Told(code) => code.as_str().to_owned(),
        End::Alert(alert) => format!("TLS alert {alert}"),
        End::Distrusted(_) => "collector not trusted".to_owned(),
        End::Nonsense(_) => "protocol broken".to_owned(),
        End::Silent(words) | End::Unanswered(words) => {
            let stage = ["handshake", "greeting", "acknowledge"].into_iter().find(|stage| words.contains(stage));
            format!("silent ({})", stage.unwrap_or("no answer"))
        }
        End::Lost(words) => words.split_once(": ").map_or(words.as_str(), |(_, why)| why).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use rollcall_common::code::Code;

    use super::*;

    #[test]
    fn ends_of_many_sidecars_fall_together() {
        for (end, expected) in [
            (End::Told(Code::Busy), "BUSY"),
            (End::Lost("127.0.0.1:7411: reset by peer".into()), "reset by peer"),
            (End::Lost("[::1]:7411: timed out".into()), "timed out"),
            (End::Silent("127.0.0.1:1 did not acknowledge beat 7 within 4000 ms".into()), "silent (acknowledge)"),
            (End::Silent("x:1 did not complete the handshake in time".into()), "silent (handshake)"),
        ] {
            assert_eq!(word(&end), expected);
        }
    }
}

//! What a collector wants of this host, and how often it may want it. Part of the pure state machine.
//!
//! Settings are handed to the owner once in [`APART`], and the last ones count. Whoever sends more than [`MOST`] orders
//! within [`WITHIN`] floods us: its connection ends, and the next dial backs off as after any nonsense.

use std::time::Duration;

use rollcall_common::{
    time::{BootTime, Now},
    wire::{message::capability, settings::Settings},
};

use super::{Action, Phase, Session};

/// No two settings are applied closer than this.
const APART: Duration = Duration::from_secs(1);
/// Settings and directives that a collector may send...
const MOST: u32 = 64;
/// ...within this time.
const WITHIN: Duration = Duration::from_secs(10);

/// What was ordered lately, over all connections.
#[derive(Debug, Default)]
pub(super) struct Orders {
    since: BootTime,
    count: u32,
    /// No settings are applied before.
    apply_not_before: BootTime,
}

impl Orders {
    /// Counts an order.
    pub(super) fn count(&mut self, now: Now) -> Result<(), String> {
        if now.boot.since(self.since) >= WITHIN {
            *self = Self { since: now.boot, count: 0, ..*self };
        }
        self.count = self.count.saturating_add(1);
        if self.count > MOST {
            return Err(format!("more than {MOST} orders within {} s", WITHIN.as_secs()));
        }
        Ok(())
    }
}

impl Session {
    /// Takes settings in, in place of those that wait.
    pub(super) fn wanted(&mut self, settings: Box<Settings>, now: Now) -> Result<(), String> {
        self.orders.count(now)?;
        let Phase::Live(live) = &mut self.phase else { return Ok(()) };
        if !live.can(capability::SETTINGS) {
            return Err("settings, which it never said that it has".into());
        }
        live.wanted = Some(settings);
        self.apply(now);
        Ok(())
    }

    /// When waiting settings may be applied.
    pub(super) fn apply_due(&self) -> Option<BootTime> {
        let Phase::Live(live) = &self.phase else { return None };
        live.wanted.as_ref().map(|_| self.orders.apply_not_before)
    }

    /// Hands waiting settings to the owner, if their time has come.
    pub(super) fn apply(&mut self, now: Now) {
        let Phase::Live(live) = &mut self.phase else { return };
        if self.orders.apply_not_before > now.boot {
            return;
        }
        let Some(settings) = live.wanted.take() else { return };
        live.owes_state = true;
        // The pace is told in answers to beats alone: a shorter one must not wait for the end of a long interval.
        live.beats.hasten(now.boot);
        self.orders.apply_not_before = now.boot.after(APART);
        self.actions.push_back(Action::Apply(settings));
    }

    /// The owner says what is in force; an answer is owed for each settings, whatever became of them.
    pub(super) fn settled(&mut self) {
        if let Phase::Live(live) = &mut self.phase
            && std::mem::take(&mut live.owes_state)
        {
            live.telling.in_force.forget();
        }
    }
}

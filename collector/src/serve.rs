//! Running a collector as a program: signals, the service manager.
//!
//! READY goes out once the listeners listen; the watchdog is fed only while the registry's ticks go on. The
//! first SIGTERM or SIGINT drains, a second one leaves at once. SIGHUP has the configuration read again, and takes of it
//! what needs no restart; one that is wrong changes nothing.

use std::{process::ExitCode, time::Duration};

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    collector::{Collector, Parts, StartError},
    config::{Config, ConfigErrors},
    registry::Registry,
};

/// Threads of the runtime: one is cheapest for a heartbeat, a second halves a reconnect storm
/// (`BENCHMARKS.md`).
pub const WORKERS: usize = 2;
/// Ended as asked.
pub const EXIT_OK: u8 = 0;
/// Did not start, and a restart may help.
pub const EXIT_TRANSIENT: u8 = 1;
/// Did not start, and a restart cannot help (`EX_CONFIG`).
pub const EXIT_CONFIG: u8 = 78;
/// The registry counts as stuck when its ticks stay away for longer.
const STUCK_AFTER: Duration = Duration::from_secs(5);

/// The configuration as it stands now.
pub type Reread<'a> = &'a dyn Fn() -> Result<Config, ConfigErrors>;

/// Runs until a signal.
pub async fn run(config: Config, reread: Reread<'_>) -> ExitCode {
    match serve(config, reread).await {
        Ok(()) => ExitCode::from(EXIT_OK),
        Err(error) => {
            let chain: Vec<String> = causes(&error).collect();
            tracing::error!(error = %chain.join(": "), "not started");
            ExitCode::from(if error.is_transient() { EXIT_TRANSIENT } else { EXIT_CONFIG })
        }
    }
}

async fn serve(config: Config, reread: Reread<'_>) -> Result<(), StartError> {
    let mut in_force = config.clone();
    let mut signals = Signals::new().map_err(|error| StartError::Setting(format!("no signal handler: {error}")))?;
    let collector = tokio::select! {
        started = Collector::start(config, Parts::default()) => started?,
        name = signals.next() => {
            tracing::info!(signal = name, "stopped before it listened");
            return Ok(());
        }
    };
    let at = collector.endpoints();
    notify(&[NotifyState::Ready, NotifyState::Status(&format!("listening: QUIC {}, HTTP {}", at.quic, at.http))]);
    let registry = collector.registry().clone();
    let until_asked = async {
        loop {
            match signals.any().await {
                Asked::Reload => reload(&collector, &mut in_force, reread()),
                Asked::Stop(name) => {
                    tracing::info!(signal = name, "stopping; a second signal leaves at once");
                    return;
                }
            }
        }
    };
    tokio::select! {
        () = until_asked => {}
        () = feed_watchdog(registry) => {}
    }
    notify(&[NotifyState::Stopping, NotifyState::Status("saying goodbye to the sidecars")]);
    tokio::select! {
        () = collector.shutdown() => {}
        name = signals.next() => tracing::warn!(signal = name, "left at once"),
    }
    Ok(())
}

/// Takes a configuration that was read again, where it holds.
fn reload(collector: &Collector, in_force: &mut Config, read: Result<Config, ConfigErrors>) {
    match read {
        Ok(new) => {
            collector.reload(&new);
            in_force.known_pollers.clone_from(&new.known_pollers);
            let rest_waits = takes_restart(in_force, &new);
            tracing::info!(
                known_pollers = in_force.known_pollers.len(),
                rest_waits,
                "the configuration was read again{}",
                if rest_waits { "; other settings that changed take a restart" } else { "" }
            );
        }
        Err(errors) => {
            // The certificate is not the configuration's text: it is read again all the same.
            collector.reload(in_force);
            tracing::warn!(%errors, "the configuration was read again and is wrong: the one in force stays");
        }
    }
}

/// Whether something differs that only a start looks at. What a configuration prints of itself holds no secret, and
/// everything else.
fn takes_restart(in_force: &Config, new: &Config) -> bool {
    format!("{in_force:?}") != format!("{new:?}")
}

struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
}

enum Asked {
    Stop(&'static str),
    Reload,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
        })
    }

    /// The next one of any kind.
    async fn any(&mut self) -> Asked {
        tokio::select! {
            _ = self.term.recv() => Asked::Stop("SIGTERM"),
            _ = self.int.recv() => Asked::Stop("SIGINT"),
            _ = self.hup.recv() => Asked::Reload,
        }
    }

    /// The next one that stops.
    async fn next(&mut self) -> &'static str {
        loop {
            if let Asked::Stop(name) = self.any().await {
                return name;
            }
        }
    }
}

/// Tells the service manager that the registry is alive, as often as it asks; forever.
async fn feed_watchdog(registry: Registry) {
    let Some(within) = sd_notify::watchdog_enabled() else { return std::future::pending().await };
    let mut ticks = tokio::time::interval(within / 3);
    loop {
        ticks.tick().await;
        if registry.now().boot.since(registry.observed().boot) < STUCK_AFTER {
            notify(&[NotifyState::Watchdog]);
        } else {
            tracing::error!("the registry does not tick; the watchdog goes hungry");
        }
    }
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager was not told");
    }
}

fn causes(error: &dyn std::error::Error) -> impl Iterator<Item = String> {
    std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string)
}

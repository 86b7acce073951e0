//! Running a collector as a program: signals, the service manager.
//!
//! READY goes out once the listeners listen; the watchdog is fed only while the registry's ticks go on. The
//! first SIGTERM or SIGINT drains, a second one leaves at once. SIGHUP has the HTTPS certificate read again.

use std::{process::ExitCode, time::Duration};

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    collector::{Collector, Parts, StartError},
    config::Config,
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

/// Runs until a signal.
pub async fn run(config: Config) -> ExitCode {
    match serve(config).await {
        Ok(()) => ExitCode::from(EXIT_OK),
        Err(error) => {
            let chain: Vec<String> = causes(&error).collect();
            tracing::error!(error = %chain.join(": "), "not started");
            ExitCode::from(if error.is_transient() { EXIT_TRANSIENT } else { EXIT_CONFIG })
        }
    }
}

async fn serve(config: Config) -> Result<(), StartError> {
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
                Asked::Reload => collector.reload(),
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

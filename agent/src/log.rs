//! Logs of the process: to standard error, as one line an event.
//!
//! Owns where lines go and what is left out; what a line looks like, and what never stands in it, is
//! [`rollcall_common::log`]'s.

use std::{
    io::{IsTerminal as _, Write as _, stderr},
    sync::OnceLock,
};

use rollcall_common::{
    log::{Form, Lines, is_journal},
    time::{Clock as _, SystemClock},
};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    Layer as _, Registry, filter::Targets, layer::SubscriberExt as _, reload, util::SubscriberInitExt as _,
};

use crate::config::{Log, LogFormat, LogLevel};

/// Starts logging for the whole process. A second call changes nothing.
pub fn start(log: Log) {
    let (filter, level) = reload::Layer::new(filter(log.level));
    let form = match log.format {
        LogFormat::Json => Form::Json,
        LogFormat::Text if in_journal() => Form::Journal,
        LogFormat::Text => Form::Text { colour: stderr().is_terminal() },
    };
    let lines = Lines::new(form, || SystemClock.now().wall, write);
    // An error means that a subscriber is set already, as in tests.
    if Registry::default().with(lines.with_filter(filter)).try_init().is_ok() {
        // The one that was set first is the one that filters.
        let _ = LEVEL.set(level);
        std::panic::set_hook(Box::new(|info| {
            let place = info.location().map(ToString::to_string).unwrap_or_default();
            tracing::error!("panicked at {place}: {}", info.payload_as_str().unwrap_or("no words"));
        }));
    }
}

/// From now on so much is logged. Before [`start`], nothing happens.
pub fn set_level(level: LogLevel) {
    if let Some(handle) = LEVEL.get()
        && let Err(error) = handle.reload(filter(level))
    {
        tracing::warn!(%error, "the level of the log stays");
    }
}

static LEVEL: OnceLock<reload::Handle<Targets, Registry>> = OnceLock::new();

fn filter(level: LogLevel) -> Targets {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    // What carries bytes tells of each packet and frame, at any level: whoever floods a probe would fill the log.
    ["quinn", "quinn_proto", "quinn_udp", "rustls", "h2", "hyper", "hyper_util"]
        .into_iter()
        .fold(Targets::new().with_default(level), |targets, name| {
            targets.with_target(name, level.min(LevelFilter::WARN))
        })
}

/// Whether the journal reads standard error: the variable alone is inherited by whoever is started from a unit.
fn in_journal() -> bool {
    let Some(named) = std::env::var("JOURNAL_STREAM").ok() else { return false };
    rustix::fs::fstat(stderr()).is_ok_and(|stat| is_journal(&named, stat.st_dev, stat.st_ino))
}

/// Nobody is left to tell where standard error is closed.
fn write(line: &[u8]) {
    let _ = stderr().lock().write_all(line);
}

//! Logs of the process: to standard error, as one line an event.
//!
//! Owns where lines go and what is left out; what a line looks like, and what never stands in it, is
//! [`rollcall_common::log`]'s.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io::{IsTerminal as _, Write as _, stderr},
    panic::PanicHookInfo,
};

use rollcall_common::{
    log::{Form, Lines, is_journal},
    time::{Clock as _, SystemClock},
};
use tracing_subscriber::{EnvFilter, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::config::{Log, LogFormat};

/// Starts logging for the whole process.
///
/// # Errors
/// When the filter does not parse, or logging is set up already.
pub fn start(log: &Log) -> Result<(), String> {
    let filter = EnvFilter::try_new(&log.level).map_err(|error| format!("log.level: {error}"))?;
    let lines = Lines::new(form(log.format), || SystemClock.now().wall, write);
    tracing_subscriber::registry().with(filter).with(lines).try_init().map_err(|error| error.to_string())?;
    std::panic::set_hook(Box::new(panicked));
    Ok(())
}

fn form(format: LogFormat) -> Form {
    match format {
        LogFormat::Json => Form::Json,
        LogFormat::Text if in_journal() => Form::Journal,
        LogFormat::Text => Form::Text { colour: stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none() },
    }
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

/// A panic is an event like others: one line, masked.
fn panicked(info: &PanicHookInfo<'_>) {
    let payload = info.payload_as_str().unwrap_or("no words");
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or_default();
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        tracing::error!(thread, %backtrace, "panicked at {place}: {payload}");
    } else {
        tracing::error!(thread, "panicked at {place}: {payload}");
    }
}

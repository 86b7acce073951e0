//! `rollcall-agent status`: what the sidecar that runs says of itself, or else what lies on the disk.

use std::path::PathBuf;

use serde::Serialize;

use super::{Exit, Output, complain, print};
use crate::{
    config::Config,
    local,
    machine::{Belonging, Machine, belonging},
    status::Report,
    vault::Vault,
};

pub(super) async fn status(config: &Config, sockets: &[PathBuf], output: Output) -> Exit {
    let failure = match running(sockets).await {
        Ok(report) => return show(&report, output),
        Err(failure) => failure,
    };
    let on_disk = OnDisk::look(config);
    match output {
        Output::Text => print(&on_disk.words(config)),
        Output::Json => match serde_json::to_string(&on_disk) {
            Ok(json) => print(&json),
            Err(error) => return complain(&error, Exit::Failed),
        },
    }
    complain(&failure, Exit::Unavailable)
}

/// What the first sidecar says that answers, or why none does.
pub(super) async fn running(sockets: &[PathBuf]) -> Result<Report, String> {
    let mut failure = String::from("there is no socket to ask at");
    for socket in sockets {
        match local::ask(socket).await {
            Ok(report) => return Ok(report),
            Err(error) => failure = super::unanswered(socket, &error),
        }
    }
    Err(failure)
}

pub(super) fn show(report: &Report, output: Output) -> Exit {
    match output {
        Output::Text => print(&report.table()),
        Output::Json => match serde_json::to_string(report) {
            Ok(json) => print(&json),
            Err(error) => return complain(&error, Exit::Unavailable),
        },
    }
    Exit::Well
}

/// What is known of a sidecar that does not run.
#[derive(Debug, Default, Serialize)]
struct OnDisk {
    running: bool,
    /// Whose identity is there.
    enrolled_as: Option<String>,
    /// When its certificate ends.
    not_after: Option<String>,
    /// Where it would dial.
    addresses: Vec<String>,
    /// Whether the identity is another machine's.
    copied: bool,
    /// Why nothing is known.
    problem: Option<String>,
}

impl OnDisk {
    fn look(config: &Config) -> Self {
        let stored = match Vault::inspect(&config.state_dir) {
            Ok(stored) => stored.unwrap_or_default(),
            Err(error) => return Self { problem: Some(error.to_string()), ..Self::default() },
        };
        let addresses = stored.addresses.map(|kept| kept.list).unwrap_or_default();
        Self {
            copied: stored.current.is_some()
                && config.bind_machine
                && belonging(stored.made_for, &Machine::look(config.machine_id_file.as_deref()))
                    == Belonging::Elsewhere,
            enrolled_as: stored.current.as_ref().map(|current| current.service().to_string()),
            not_after: stored.current.as_ref().map(|current| current.term().not_after.to_string()),
            addresses: addresses.iter().map(ToString::to_string).collect(),
            ..Self::default()
        }
    }

    fn words(&self, config: &Config) -> String {
        let dir = config.state_dir.display();
        let mut rows = vec![("state", "not running".to_owned())];
        match (&self.problem, &self.enrolled_as) {
            (Some(problem), _) => rows.push(("on disk", problem.clone())),
            (None, None) => rows.push(("on disk", format!("no identity in {dir}"))),
            (None, Some(service)) => rows.push(("service", format!("{service} (identity in {dir})"))),
        }
        rows.extend(self.not_after.iter().map(|end| ("certificate", format!("until {end}"))));
        if !self.addresses.is_empty() {
            rows.push(("addresses", self.addresses.join(", ")));
        }
        if self.copied {
            rows.push(("warning", "the identity was made for another machine, and is not used here".into()));
        }
        rows.iter().map(|(name, value)| format!("{name:<12} {value}\n")).collect()
    }
}

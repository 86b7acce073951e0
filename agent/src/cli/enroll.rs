//! `rollcall-agent enroll`: an identity now, and nothing else; for whoever provisions a host.

use std::{path::Path, sync::Arc};

use clap::Args;
use rollcall_common::time::SystemClock;
use tokio::sync::mpsc;

use super::{Exit, Output, complain, print};
use crate::{
    agent::{Agent, Fault, Provisioned},
    config::{Config, Period},
    signals::{Signal, Signals, pass_on},
    token,
    vault::VaultError,
};

const EXAMPLES: &str = "\
Examples:
  As the service's own user, so that the service can read what this writes:
    runuser -u rollcall-agent -- rollcall-agent enroll --within 5m
  In a container, with the token in a file that is removed afterwards:
    rollcall-agent enroll --kind agent --token-file /run/secrets/token --consume-token-file

Tries again while no collector answers, until the time is over. With an identity at hand it
says so and is done, so that it may be run again and again. It refuses where a sidecar runs:
that one enrolls by itself.

Exit codes: 0 there is an identity; 69 no collector gave one in time; 78 configuration, state
or token that another try cannot cure.";

/// What `enroll` takes.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub struct EnrollArgs {
    /// How long to try
    #[arg(long, value_name = "PERIOD", default_value = "2m")]
    within: Period,
    /// Form of the output
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

impl EnrollArgs {
    pub(super) async fn enroll(&self, config: Config) -> Exit {
        let (sender, signals) = Signals::channel();
        tokio::select! {
            exit = self.provision(config, signals) => exit,
            exit = interrupted(sender) => exit,
        }
    }

    async fn provision(&self, config: Config, mut signals: Signals) -> Exit {
        let (state_dir, places) = (config.state_dir.clone(), config.token.clone());
        let agent = match Agent::prepare_to_enroll(config, Arc::new(SystemClock)) {
            Ok(agent) => agent,
            Err(fault) => return explain(&fault, &state_dir),
        };
        if !agent.is_enrolled() {
            match token::look(&places) {
                Ok(look) if look.found.is_none() => {
                    let mut words = format!("there is no token: put one into {}", places.file.display());
                    for obstacle in look.obstacles {
                        words = format!("{words}\n{obstacle}");
                    }
                    return complain(&words, Exit::Config);
                }
                Ok(_) => {}
                Err(damaged) => return complain(&damaged, Exit::Config),
            }
        }
        match agent.provision(&mut signals, self.within.0).await {
            Ok(Provisioned::Done { service, fresh, not_after }) => {
                match self.output {
                    Output::Text => {
                        let how = if fresh { "enrolled as" } else { "is enrolled already, as" };
                        print(&format!("{how} {service}, certificate until {not_after}"));
                    }
                    Output::Json => print(
                        &serde_json::json!({
                            "service": service.to_string(), "fresh": fresh, "not_after": not_after.to_string(),
                        })
                        .to_string(),
                    ),
                }
                Exit::Well
            }
            Ok(Provisioned::NotYet(why)) => {
                let secs = self.within.0.as_secs();
                complain(&format!("no identity within {secs} s: {why}"), Exit::Unavailable)
            }
            Err(fault) => explain(&fault, &state_dir),
        }
    }
}

async fn interrupted(sender: mpsc::Sender<Signal>) -> Exit {
    match pass_on(sender).await {
        Ok(()) => std::future::pending().await,
        Err(error) => complain(&error, Exit::Failed),
    }
}

fn explain(fault: &Fault, state_dir: &Path) -> Exit {
    let exit = fault.exit();
    let hint = if let Fault::Vault(VaultError::Locked(_)) = fault {
        "\na running sidecar enrolls by itself; see `rollcall-agent status`".to_owned()
    } else if let Fault::Vault(VaultError::Foreign { .. }) = fault {
        let dir = state_dir.display();
        format!("\nrun this as its owner: runuser -u \"$(stat -c %U {dir})\" -- rollcall-agent enroll")
    } else {
        String::new()
    };
    complain(&format!("{fault}{hint}"), exit)
}

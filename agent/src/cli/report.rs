//! `rollcall-agent report`: says something to the sidecar that runs, as any program could over its socket.

use std::{io, path::PathBuf};

use clap::{Args, ValueEnum};
use rollcall_common::{
    health::Health,
    id::{ServiceId, ServiceKey},
};

use super::{Exit, complain};
use crate::{
    config::Period,
    local::{
        answers::{Progress, Said},
        client::{self, Reply},
    },
};

const EXAMPLES: &str = "\
Examples:
  A nightly job that must be heard of every day:
    rollcall-agent report healthy --source backup --ttl 26h
    rollcall-agent report unhealthy --source backup --reason \"no space left\" --ttl 26h
  A queue that must move:
    rollcall-agent report progress --source mail-queue --count 1234 --ttl 5m
  A child that the configuration declares with [[child]]:
    rollcall-agent report degraded --child checker/snmp-1 --reason \"slow\"
  Forget what was said:
    rollcall-agent report withdraw --source backup

Any program may say the same without this one:
  curl --unix-socket /run/rollcall-agent/agent.sock http://localhost/report \\
       -d '{\"source\":\"backup\",\"health\":\"healthy\",\"ttl_s\":93600}'
  curl --unix-socket /run/rollcall-agent/agent.sock -X POST http://localhost/progress

Who may connect is a matter of the socket's mode: its group is that of the sidecar. A name
belongs to the user who used it first.

Exit codes: 0 said; 69 no sidecar answers; 77 it refused, and says why.";

/// What is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// All is well
    Healthy,
    /// It works, with a reservation
    Degraded,
    /// It does not work
    Unhealthy,
    /// It got on with its work
    Progress,
    /// Forget what this source said
    Withdraw,
}

/// What `report` takes.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub struct ReportArgs {
    /// What is said
    #[arg(value_enum)]
    what: What,
    /// Under which name it is said [default: report, or progress]
    #[arg(long, value_name = "NAME")]
    source: Option<ServiceId>,
    /// Why, in words
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    /// How long that is good for, 1s to 7d; whoever is silent longer counts as unhealthy [default: for ever]
    #[arg(long, value_name = "PERIOD")]
    ttl: Option<Period>,
    /// With progress: how much is done; the same number again is no progress
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Say it of a child, like checker/snmp-1
    #[arg(long, value_name = "KIND/ID")]
    child: Option<ServiceKey>,
}

impl ReportArgs {
    fn request(&self) -> serde_json::Result<(&'static str, Vec<u8>)> {
        let Self { what, source, reason, ttl, count, child } = self.clone();
        let secs = ttl.map(|period| period.0.as_secs());
        let child = child.map(|child| child.to_string());
        let withdraw = what == What::Withdraw;
        let health = match what {
            What::Healthy => Some(Health::Healthy),
            What::Degraded => Some(Health::Degraded),
            What::Unhealthy => Some(Health::Unhealthy),
            What::Withdraw => None,
            What::Progress => {
                let said = Progress { name: source, count, within_s: secs, child, withdraw };
                return Ok(("/progress", serde_json::to_vec(&said)?));
            }
        };
        let said = Said { source, health, reason, ttl_s: secs, child, withdraw };
        Ok(("/report", serde_json::to_vec(&said)?))
    }

    /// Says it at the first socket where somebody listens.
    pub(super) async fn say(&self, sockets: &[PathBuf]) -> Exit {
        let (path, body) = match self.request() {
            Ok(request) => request,
            Err(error) => return complain(&error, Exit::Usage),
        };
        let mut failure = String::from("there is no socket to ask at");
        for socket in sockets {
            let said: io::Result<Reply> = client::call(socket, "POST", path, &body).await;
            match said {
                Ok((204, _)) => return self.forget_progress_too(socket).await,
                Ok((status, body)) => return complain(&client::refusal(status, &body), Exit::Refused),
                Err(error) => failure = super::unanswered(socket, &error),
            }
        }
        complain(&failure, Exit::Unavailable)
    }

    /// A name may have said two things; whoever withdraws means both.
    async fn forget_progress_too(&self, socket: &std::path::Path) -> Exit {
        if self.what != What::Withdraw {
            return Exit::Well;
        }
        let said = Progress {
            name: self.source.clone(),
            child: self.child.as_ref().map(ToString::to_string),
            withdraw: true,
            ..Progress::default()
        };
        let Ok(body) = serde_json::to_vec(&said) else { return Exit::Usage };
        match client::call(socket, "POST", "/progress", &body).await {
            Ok((204, _)) => Exit::Well,
            Ok((status, body)) => complain(&client::refusal(status, &body), Exit::Refused),
            Err(error) => complain(&error, Exit::Unavailable),
        }
    }
}

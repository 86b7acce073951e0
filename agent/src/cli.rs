//! Flags, and the commands that do not run a sidecar.

use std::{collections::BTreeMap, io::Write, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand, ValueEnum};
use rollcall_common::{
    address::Address,
    id::{Kind, ServiceId},
    service::CheckerKind,
};

use crate::{
    agent::disagreements,
    config::{Config, HostSource, Instance, Layer, LocalLayer, LogFormat, LogLayer, LogLevel, Period, Problems},
    local,
    status::Report,
    token,
    vault::Vault,
};

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// All is well.
    Well,
    /// The command line is wrong.
    Usage,
    /// Something that a restart may cure: a full disk.
    Failed,
    /// Nobody answers.
    Unavailable,
    /// Configuration, state or token that a restart cannot cure.
    Config,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Well => 0,
            Exit::Failed => 1,
            Exit::Usage => 64,
            Exit::Unavailable => 69,
            Exit::Config => 78,
        })
    }
}

const LONG_ABOUT: &str = "\
The Rollcall sidecar runs beside one poller, agent, checker or instance and tells the collectors that it \
lives. On its first start it enrolls with an onboarding token; from then on it has an identity of its own and \
needs no token any more.";

const AFTER_HELP: &str = "\
First start:
  1. On the collector:  rollcall-collector token create --kind poller
  2. On this host:      put the token into /etc/rollcall/agent/token (mode 0600) and
                        kind = \"poller\" into /etc/rollcall/agent.toml
  3. rollcall-agent check     tells what is wrong, if anything
  4. rollcall-agent           what systemd runs; waits for the token if there is none
  5. rollcall-agent status    tells how it is

The token is looked for in the systemd credential `token`, then in the token file, then in
ROLLCALL_TOKEN; never on the command line, which every user of this host can read.

Several on one host: `systemctl enable --now rollcall-agent@blue` runs another one, with
/etc/rollcall/agent/blue.toml and /etc/rollcall/agent/blue.token; ask it with
`rollcall-agent status --instance blue`.

Settings come from defaults, /etc/rollcall/agent.toml, /etc/rollcall/agent.d/*.toml in
name order, ROLLCALL_* variables (ROLLCALL_KIND, ROLLCALL_STATE_DIR, ...), and flags.
Later ones win.

Signals: TERM and INT say goodbye and stop, the second one at once. HUP tries at once
whatever is waited for.

Exit codes: 0 well; 64 usage; 69 no sidecar answers (status); 78 configuration, state or
token that a restart cannot cure.";

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "rollcall-agent", version, about = "The Rollcall sidecar: enrolls once, then heartbeats", long_about = LONG_ABOUT, after_help = AFTER_HELP)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    settings: Settings,
}

/// What to do.
#[derive(Debug, Clone, Copy, Default, Subcommand)]
pub enum Command {
    /// Run the sidecar (the default)
    #[default]
    Run,
    /// Show how the running sidecar is
    Status {
        /// Form of the output
        #[arg(long, short, value_enum, default_value_t)]
        output: Output,
    },
    /// Check configuration, state and token; one line per problem
    Check,
}

/// The form of an output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    #[default]
    Text,
    /// For programs
    Json,
}

#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Settings")]
struct Settings {
    /// Which of several sidecars on this host, as in rollcall-agent@NAME.service: reads
    /// /etc/rollcall/agent/NAME.toml and NAME.token, keeps its state in /var/lib/rollcall-agent@NAME
    #[arg(long, global = true, value_name = "NAME")]
    instance: Option<Instance>,
    /// Main configuration file [default: /etc/rollcall/agent.toml]; fragments are beside it in agent.d/
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What the service is: poller, agent, checker or instance
    #[arg(long, global = true)]
    kind: Option<Kind>,
    /// The id to ask for; some tokens give one
    #[arg(long, global = true)]
    id: Option<ServiceId>,
    /// The id of the parent: a poller for an agent, an agent for a checker; most tokens know it
    #[arg(long, global = true, value_name = "ID")]
    parent: Option<ServiceId>,
    /// What a checker checks: snmp, sysmon, ...
    #[arg(long, global = true, value_name = "NAME")]
    checker_kind: Option<CheckerKind>,
    /// A label to propose; may be repeated
    #[arg(long = "label", global = true, value_name = "KEY=VALUE", value_parser = pair)]
    labels: Vec<(String, String)>,
    /// Free metadata; may be repeated
    #[arg(long, global = true, value_name = "KEY=VALUE", value_parser = pair)]
    metadata: Vec<(String, String)>,
    /// Where identity and keys are kept [default: /var/lib/rollcall-agent]
    #[arg(long, global = true, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// The status socket [default: agent.sock in the runtime directory, or in the state directory]
    #[arg(long, global = true, value_name = "FILE")]
    socket: Option<PathBuf>,
    /// A loopback port for /health, /status and /metrics, like 127.0.0.1:7412 [default: none]
    #[arg(long, global = true, value_name = "IP:PORT")]
    local_http: Option<std::net::SocketAddr>,
    /// Where the onboarding token is looked for [default: /etc/rollcall/agent/token]
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Remove the token file once it did its work
    #[arg(long, global = true)]
    consume_token_file: bool,
    /// Dial here, whatever token and collector say; may be repeated, best first
    #[arg(long = "address", global = true, value_name = "HOST:PORT")]
    addresses: Vec<Address>,
    /// How often a revoked sidecar tries again [default: 1h]
    #[arg(long, global = true, value_name = "PERIOD")]
    revoked_retry: Option<Period>,
    /// Form of log lines [default: text]
    #[arg(long, global = true, value_enum)]
    log_format: Option<LogFormat>,
    /// How much is logged [default: info]
    #[arg(long, global = true, value_enum)]
    log_level: Option<LogLevel>,
}

impl Cli {
    /// What to do.
    #[must_use]
    pub fn command(&self) -> Command {
        self.command.unwrap_or_default()
    }

    /// The settings from all sources.
    ///
    /// # Errors
    /// [`Problems`].
    pub fn config(&self) -> Result<Config, Problems> {
        Config::load(&HostSource, self.settings.config.as_deref(), self.settings.layer())
    }

    /// `status`: asks the running sidecar.
    pub async fn status(&self, output: Output) -> Exit {
        let config = match self.config() {
            Ok(config) => config,
            Err(problems) => return complain(&problems, Exit::Config),
        };
        let packaged = config.packaged_socket.exists().then_some(config.packaged_socket);
        // The packaged service's socket is known to systemd only: look there too, unless told otherwise.
        let also = packaged.filter(|_| self.settings.socket.is_none() && self.settings.state_dir.is_none());
        let mut failure = String::new();
        for path in [Some(config.socket), also].into_iter().flatten() {
            match local::ask(&path).await {
                Ok(report) => return show(&report, output),
                Err(error) => failure = format!("no sidecar answers at {}: {error}", path.display()),
            }
        }
        complain(&failure, Exit::Unavailable)
    }

    /// `check`: one line per problem.
    #[must_use]
    pub fn check(&self) -> Exit {
        let config = match self.config() {
            Ok(config) => config,
            Err(problems) => return complain(&problems, Exit::Config),
        };
        let mut problems = Vec::new();
        let mut enrolled = None;
        match Vault::inspect(&config.state_dir) {
            Ok(stored) => enrolled = stored.and_then(|stored| stored.current),
            Err(error) => problems.push(error.to_string()),
        }
        let state = match &enrolled {
            Some(identity) => {
                problems.extend(disagreements(&config, identity));
                format!("enrolled as {}", identity.service())
            }
            None => match token::look(&config.token) {
                Ok(look) => {
                    if config.kind.is_none() {
                        problems.push("`kind` is not set, and there is no identity yet: enrollment needs it".into());
                    }
                    match look.found {
                        Some(found) => format!("not enrolled yet; token {} in {}", found.token.id, found.origin),
                        None => format!("not enrolled yet; waits for a token in {}", config.token.file.display()),
                    }
                }
                Err(damaged) => {
                    problems.push(damaged.to_string());
                    "not enrolled yet".into()
                }
            },
        };
        if problems.is_empty() {
            print(&format!("well: {state}"));
            return Exit::Well;
        }
        complain(&problems.join("\n"), Exit::Config)
    }
}

/// Help and version are an answer; anything else is a wrong use.
#[must_use]
pub fn explain(error: &clap::Error) -> Exit {
    // Where nobody listens, the exit code still tells.
    let _ = error.print();
    if error.use_stderr() { Exit::Usage } else { Exit::Well }
}

/// Says what is wrong, on standard error.
pub fn complain(problem: &dyn std::fmt::Display, exit: Exit) -> Exit {
    let _ = writeln!(std::io::stderr(), "rollcall-agent: {}", problem.to_string().replace('\n', "\nrollcall-agent: "));
    exit
}

fn print(text: &str) {
    let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
}

fn show(report: &Report, output: Output) -> Exit {
    match output {
        Output::Text => print(&report.table()),
        Output::Json => match serde_json::to_string(report) {
            Ok(json) => print(&json),
            Err(error) => return complain(&error, Exit::Unavailable),
        },
    }
    Exit::Well
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is no key=value"))?;
    Ok((key.into(), value.into()))
}

impl Settings {
    fn layer(&self) -> Layer {
        let table = |pairs: &[(String, String)]| -> Option<BTreeMap<String, String>> {
            (!pairs.is_empty()).then(|| pairs.iter().cloned().collect())
        };
        Layer {
            instance: self.instance.clone(),
            kind: self.kind,
            id: self.id.clone(),
            parent: self.parent.clone(),
            checker_kind: self.checker_kind.clone(),
            labels: table(&self.labels),
            metadata: table(&self.metadata),
            state_dir: self.state_dir.clone(),
            socket: self.socket.clone(),
            token_file: self.token_file.clone(),
            consume_token_file: self.consume_token_file.then_some(true),
            addresses: (!self.addresses.is_empty()).then(|| self.addresses.clone()),
            revoked_retry: self.revoked_retry,
            local: self.local_http.map(|http| LocalLayer { http: Some(http), http_reports: None }),
            log: Some(LogLayer { format: self.log_format, level: self.log_level }),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        <Cli as CommandFactory>::command().debug_assert();
    }

    #[test]
    fn a_token_has_no_flag() {
        assert!(Cli::try_parse_from(["rollcall-agent", "--token", "x"]).is_err());
        let error = Cli::try_parse_from(["rollcall-agent", "--frobnicate"]).unwrap_err();
        assert!(error.use_stderr());
    }

    #[test]
    fn flags_reach_the_settings() {
        let cli =
            Cli::try_parse_from(["rollcall-agent", "run", "--kind", "agent", "--label", "a=b", "--address", "h:1"]);
        let layer = cli.unwrap().settings.layer();
        assert_eq!(layer.kind, Some(Kind::Agent));
        assert_eq!(layer.labels.unwrap().get("a").map(String::as_str), Some("b"));
        assert_eq!(layer.addresses.unwrap().len(), 1);
        assert!(layer.consume_token_file.is_none());
    }
}

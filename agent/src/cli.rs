//! Flags, and the commands that do not run a sidecar.

mod enroll;
mod report;
mod reset;
mod status;

use std::{
    collections::BTreeMap,
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use clap::{Args, Parser, Subcommand, ValueEnum};
use rollcall_common::{
    address::Address,
    id::{Kind, ServiceId, ServiceKey},
    service::{CheckerKind, is_printable},
    time::{Clock, SystemClock},
};

pub use self::{enroll::EnrollArgs, report::ReportArgs, reset::ResetArgs};

use crate::{
    agent::{Fault, disagreements},
    carriage::Policy,
    config::{
        Config, ConfigError, HostSource, Instance, Layer, LocalLayer, LogFormat, LogLayer, LogLevel, Period, Problems,
        RUNTIME_SOCKET,
    },
    doctor::{Diagnosis, Outcome, diagnose},
    leave,
    machine::{Belonging, Machine, belonging},
    probe::plan::Probe,
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
    /// The sidecar that runs refused what was asked.
    Refused,
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
            Exit::Refused => 77,
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
  1. On the collector:  rollcall-collector tokens create --kind poller
  2. On this host:      put the token into /etc/rollcall/agent/token (mode 0600) and
                        kind = \"poller\" into /etc/rollcall/agent.toml
  3. rollcall-agent check     tells what is wrong, if anything
  4. rollcall-agent           what systemd runs; waits for the token if there is none
  5. rollcall-agent status    tells how it is
     rollcall-agent doctor    tells what stands in its way, and the fix

The token is looked for in the systemd credential `token`, then in the token file, then in
ROLLCALL_TOKEN; never on the command line, which every user of this host can read.

Several on one host: `systemctl enable --now rollcall-agent@blue` runs another one, with
/etc/rollcall/agent/blue.toml and /etc/rollcall/agent/blue.token; ask it with
`rollcall-agent status --instance blue`.

Settings come from defaults, /etc/rollcall/agent.toml, /etc/rollcall/agent.d/*.toml in
name order, ROLLCALL_* variables (ROLLCALL_KIND, ROLLCALL_STATE_DIR, ...), and flags.
Later ones win.

Signals: TERM and INT say goodbye and stop, the second one at once. HUP reads the
configuration again and tries at once whatever is waited for. What does not pass changes
nothing; what takes a restart is named.

Examples of probes and children, and drop-ins that open or tighten the unit's sandbox for
them, are in /usr/share/doc/rollcall-agent/examples/.

Exit codes: 0 well; 64 usage; 69 nobody answers (status, doctor, enroll, report); 77 the sidecar
refused what was reported; 78 configuration, state or
token that a restart cannot cure.";

const STATUS_EXAMPLES: &str = "\
Examples:
  rollcall-agent status
  rollcall-agent status --output json
  curl --unix-socket /run/rollcall-agent/agent.sock http://localhost/status
  curl --unix-socket /run/rollcall-agent/agent.sock http://localhost/metrics
  curl --unix-socket /run/rollcall-agent/agent.sock 'http://localhost/health?of=sidecar,service'";

const DOCTOR_EXAMPLES: &str = "\
Examples:
  rollcall-agent doctor                          as root, to see everything
  rollcall-agent doctor --output json
  rollcall-agent doctor --address collector.example.net:7411    before anything is installed

Each line begins with ok, note, WARN or FAIL; below a line stands what to do about it.

Exit codes: 0 nothing fails; 69 no collector is reached, and this host is well; 78 something on this host.";

/// The command line.
#[derive(Debug, Clone, Parser)]
#[command(name = "rollcall-agent", version, about = "The Rollcall sidecar: enrolls once, then heartbeats", long_about = LONG_ABOUT, after_help = AFTER_HELP)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    settings: Settings,
}

/// What to do.
#[derive(Debug, Clone, Default, Subcommand)]
pub enum Command {
    /// Run the sidecar (the default)
    #[default]
    Run,
    /// Show how the running sidecar is, or what lies on the disk where none runs
    ///
    /// Asks over the sidecar's socket, and so needs its user, its group or root. Exit codes: 0 a sidecar answered,
    /// whatever it said; 69 none did, and what is shown is what lies on the disk.
    #[command(after_help = STATUS_EXAMPLES)]
    Status {
        /// Form of the output
        #[arg(long, short, value_enum, default_value_t)]
        output: Output,
    },
    /// Check configuration, state and token; one line per problem
    ///
    /// Looks at files alone, and changes nothing; `doctor` looks at the network too. Exit codes: 0 well; 78 not.
    Check,
    /// Enroll now and exit, to provision a host
    Enroll(EnrollArgs),
    /// Say how the service is, or that it got on, to the sidecar that runs
    Report(ReportArgs),
    /// Explain in plain words what keeps this host from its collectors, and the fix
    ///
    /// Looks at the sidecar that runs, the state directory, the token, the certificate, the names of the collectors, UDP
    /// (with a real handshake that checks the collector's certificate), TCP at the same port, the clock, the kernel's
    /// buffers and systemd. It changes nothing and never uses the identity, so that it may run beside a sidecar.
    #[command(after_help = DOCTOR_EXAMPLES)]
    Doctor {
        /// Form of the output
        #[arg(long, short, value_enum, default_value_t)]
        output: Output,
    },
    /// Forget the identity of this host, before it becomes an image of others
    Reset(ResetArgs),
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

#[derive(Debug, Clone, Default, Args)]
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
    /// What carries the heartbeats: QUIC, and TLS on TCP where UDP is blocked, or one of them alone [default: auto]
    #[arg(long, global = true, value_enum)]
    transport: Option<Policy>,
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
        self.command.clone().unwrap_or_default()
    }

    /// The settings from all sources.
    ///
    /// # Errors
    /// [`Problems`].
    pub fn config(&self) -> Result<Config, Problems> {
        Config::load(&HostSource, self.settings.config.as_deref(), self.settings.layer())
    }

    /// Every command but `run`.
    pub async fn perform(&self, command: Command) -> Exit {
        let config = match self.config() {
            Ok(config) => config,
            Err(problems) => return self.perform_without(&problems, command).await,
        };
        match command {
            // The process runs it, with signals and logs.
            Command::Run => Exit::Well,
            Command::Status { output } => status::status(&config, &self.sockets(&config), output).await,
            Command::Check => check(&config),
            Command::Enroll(args) => {
                crate::log::start(config.log);
                args.enroll(config).await
            }
            Command::Report(args) => args.say(&self.sockets(&config)).await,
            Command::Doctor { output } => doctor(&config, &self.sockets(&config), output).await,
            Command::Reset(args) => args.reset(&config),
        }
    }

    /// What can be done without a configuration: say what is wrong with it; and whoever only wants to ask the sidecar
    /// that runs, or to tell it something, need not read it where that is not allowed.
    async fn perform_without(&self, problems: &Problems, command: Command) -> Exit {
        let sockets = self.sockets_unread(problems);
        match command {
            Command::Report(args) if !sockets.is_empty() => args.say(&sockets).await,
            Command::Status { output } if !sockets.is_empty() => match status::running(&sockets).await {
                Ok(report) => status::show(&report, output),
                Err(failure) => {
                    complain(problems, Exit::Config);
                    complain(&failure, Exit::Unavailable)
                }
            },
            Command::Doctor { output } => explained(&Diagnosis::of_problems(problems), output),
            Command::Run
            | Command::Status { .. }
            | Command::Check
            | Command::Enroll(_)
            | Command::Report(_)
            | Command::Reset(_) => complain(problems, Exit::Config),
        }
    }

    /// Where the sidecar answers whose configuration this user may not read; or that goes on with what it read before
    /// somebody broke it.
    fn sockets_unread(&self, problems: &Problems) -> Vec<PathBuf> {
        let closed = |problem: &ConfigError| matches!(problem, ConfigError::Unreadable { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied);
        let packaged = || self.settings.instance.as_ref().map_or_else(|| RUNTIME_SOCKET.into(), Instance::socket);
        let socket = self.settings.socket.clone().unwrap_or_else(packaged);
        if problems.0.iter().all(closed) || socket.exists() { vec![socket] } else { Vec::new() }
    }

    /// Where the sidecar may answer. The packaged service's socket is known to systemd only: that one too, unless told
    /// otherwise.
    fn sockets(&self, config: &Config) -> Vec<PathBuf> {
        let packaged = config.packaged_socket.exists().then(|| config.packaged_socket.clone());
        let told = self.settings.socket.is_some() || self.settings.state_dir.is_some();
        let also = packaged.filter(|packaged| !told && *packaged != config.socket);
        std::iter::once(config.socket.clone()).chain(also).collect()
    }
}

/// `check`: one line per problem.
fn check(config: &Config) -> Exit {
    let mut problems = Vec::new();
    let (mut enrolled, mut made_for) = (None, None);
    match Vault::inspect(&config.state_dir) {
        Ok(stored) => {
            let stored = stored.unwrap_or_default();
            (enrolled, made_for) = (stored.current, stored.made_for);
        }
        Err(error) => problems.push(error.to_string()),
    }
    let state = match &enrolled {
        Some(identity) => {
            problems.extend(disagreements(config, identity));
            if config.bind_machine
                && belonging(made_for, &Machine::look(config.machine_id_file.as_deref())) == Belonging::Elsewhere
            {
                let fault = Fault::Copied { dir: config.state_dir.clone(), service: identity.service().clone() };
                problems.push(fault.to_string());
            }
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
        print(&format!("well: {state}{}{}", probed(config), remarked(config)));
        return Exit::Well;
    }
    complain(&problems.join("\n"), Exit::Config)
}

async fn doctor(config: &Config, sockets: &[PathBuf], output: Output) -> Exit {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    explained(&diagnose(config, sockets, &clock).await, output)
}

fn explained(diagnosis: &Diagnosis, output: Output) -> Exit {
    match output {
        Output::Text => print(&diagnosis.text()),
        Output::Json => match serde_json::to_string(diagnosis) {
            Ok(json) => print(&json),
            Err(error) => return complain(&error, Exit::Failed),
        },
    }
    match diagnosis.outcome() {
        Outcome::Well => Exit::Well,
        Outcome::Unreachable => Exit::Unavailable,
        Outcome::Ill => Exit::Config,
    }
}

/// What would be looked at, one line each.
fn probed(config: &Config) -> String {
    let lines = |whose: &str, child: Option<&ServiceKey>, probes: &[Probe]| {
        let line = |probe: &Probe| {
            let (name, every) = (probe.name.as_str(), probe.interval);
            let tunable = if config.remote.allows(child, &probe.name) { ", tunable" } else { "" };
            let rests = if probe.standby { ", on standby" } else { "" };
            format!(
                "\nprobes {whose}: {name} ({}, every {every:?}, within {:?}{tunable}{rests}): {}",
                probe.check.word(),
                probe.timeout,
                probe.check
            )
        };
        probes.iter().map(line).collect::<String>()
    };
    let mut all = lines("the service", None, &config.probes);
    for child in &config.children {
        let key = child.key.to_string();
        if child.probes.is_empty() {
            all.push_str(&format!("\nprobes {key}: nothing; it is assumed to live while this sidecar does"));
        }
        all.push_str(&lines(&key, Some(&child.key), &child.probes));
    }
    if all.is_empty() { "\nprobes nothing: the service's health is unchecked".into() } else { all }
}

/// What hinders nothing.
fn remarked(config: &Config) -> String {
    config.remarks().iter().map(|remark| format!("\nnote: {remark}")).collect()
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
    let problem = plain(&problem.to_string()).replace('\n', "\nrollcall-agent: ");
    let _ = writeln!(std::io::stderr(), "rollcall-agent: {problem}");
    exit
}

fn print(text: &str) {
    let _ = writeln!(std::io::stdout(), "{}", plain(text.trim_end()));
}

/// Why nobody answers at a socket, and what helps a user who may not ask there.
fn unanswered(socket: &Path, error: &std::io::Error) -> String {
    let help = leave::door(socket, error).map(|help| format!("; {help}")).unwrap_or_default();
    format!("no sidecar answers at {}: {error}{help}", socket.display())
}

/// What others said, to be shown on a terminal, which obeys some characters.
fn plain(text: &str) -> String {
    let fit = |c: char| if c == '\n' || is_printable(c.encode_utf8(&mut [0; 4])) { c } else { ' ' };
    text.chars().map(fit).collect()
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
            transport: self.transport,
            revoked_retry: self.revoked_retry,
            bind_machine: None,
            local: self.local_http.map(|http| LocalLayer { http: Some(http), http_reports: None }),
            log: Some(LogLayer { format: self.log_format, level: self.log_level }),
            ..Layer::default()
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
    fn a_terminal_is_told_nothing_that_it_would_obey() {
        assert_eq!(plain("a\u{1b}[2Jb\u{9b}m\u{202e}c\nd\te"), "a [2Jb m c\nd e");
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

//! The command line: `serve`, `check`, and the operator's commands on the public HTTP API.
//!
//! It owns arguments, output and exit codes. The operator's commands know nothing that a stranger with a
//! credential could not do: they speak HTTP and nothing else. `serve` is handed back to `main` as a checked
//! [`Config`].
//!
//! | module | owns |
//! |---|---|
//! | `reach`, `context` | which collector, with which credential |
//! | `client` | requests, and what their failures mean |
//! | `print` | tables, JSON, YAML, colour, a reader that went away |
//! | `list`, `watch` | what every list can do; a list that goes on |
//! | `which` | services as operators name them |
//! | `progress` | how far bulk work has come |
//! | `setup`, `login` | the first steps: a configuration, a session |
//! | `doctor` | whether the host and the collector on it are well |
//! | `services`, `tokens`, `packages`, `onboard`, `tree`, `approvals`, `knocks`, `records` | the commands |
//!
//! A resource has a file of its own with a `Command` (each command with examples), a `run` that takes client and
//! screen, and a [`list::Sheet`] for its list. Here it has one variant of `Command` and one arm.

mod apply;
mod approvals;
#[allow(dead_code, reason = "what a request can have is whole, whichever part commands use")]
mod client;
mod context;
mod doctor;
mod feed;
mod jobs;
mod keys;
mod knocks;
#[allow(dead_code, reason = "what a list can have is whole, whichever part commands use")]
mod list;
mod login;
mod maintenance;
mod onboard;
mod packages;
mod print;
mod progress;
mod reach;
mod records;
mod services;
mod setup;
mod tokens;
mod trail;
mod tree;
mod watch;
mod which;

use std::{
    ffi::OsString,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;

use self::{
    client::Client,
    print::{Screen, Word},
    reach::{Reach, Target},
};
use crate::{
    config::{Config, Flags, Source},
    http::tls::{Pair, PairError},
    statedir::StateDirError,
};

/// How a run ended, for scripts and systemd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Well.
    Well = 0,
    /// Something that no other code names: the output could not be written, `doctor` found a fault.
    Failed = 1,
    /// The arguments make no sense.
    Usage = 64,
    /// The collector cannot be reached, or cannot answer now.
    Unreachable = 69,
    /// The collector refused.
    Refused = 77,
    /// A configuration or credential that a retry cannot cure.
    Config = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        // The discriminants are the codes, and all of them fit.
        Self::from(exit as u8)
    }
}

/// Why a command ended early.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    exit: Exit,
    message: String,
    /// The problem's stable word, where the collector refused.
    code: Option<String>,
}

impl Failure {
    fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), code: None }
    }

    fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// The problem's stable word, where the collector refused.
    fn code(&self) -> Option<&str> {
        self.code.as_deref()
    }

    /// How the run ends.
    #[must_use]
    pub fn exit(&self) -> Exit {
        self.exit
    }
}

impl From<io::Error> for Failure {
    /// A reader that has seen enough is no failure: `services list | head`.
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::new(Exit::Well, "");
        }
        Self::new(Exit::Failed, format!("cannot write the output: {error}"))
    }
}

const EXAMPLES: &str = "\
Examples:
  rollcall-collector serve                                    run the collector
  rollcall-collector check                                    check the configuration
  rollcall-collector tokens create --kind poller --id site-3  let a poller enroll
  rollcall-collector onboard agent edge-17 --parent site-3    bring a host in
  rollcall-collector services list --presence lost,late       who is silent?
  rollcall-collector services show agent/edge-17              everything about one
  rollcall-collector services revoke agent/edge-17            refuse it from now on

The operator's commands call the HTTP API at --api (or ROLLCALL_API) with the credential in --credential-file
(or ROLLCALL_CREDENTIAL_FILE); `context add` remembers both under a name. Services are named agent/edge-17 or
agent edge-17.

Exit codes: 0 well, 64 usage, 69 collector unreachable, 77 refused, 78 configuration.";

/// The Rollcall collector: which pollers, agents and checkers exist, and which are alive.
#[derive(Debug, Parser)]
#[command(name = "rollcall-collector", version, after_help = EXAMPLES, max_term_width = 110)]
pub struct Cli {
    #[command(flatten)]
    reach: Reach,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the collector.
    #[command(after_help = "Example:\n  rollcall-collector serve --config /etc/rollcall/collector.toml")]
    Serve(ServeArgs),
    /// Check the configuration and show what would be in force.
    #[command(after_help = "Example:\n  rollcall-collector check --config /etc/rollcall/collector.toml")]
    Check(ServeArgs),
    /// Look whether this host is fit for a collector, and whether the one on it is well.
    #[command(after_help = doctor::EXAMPLES)]
    Doctor(doctor::DoctorArgs),
    /// Write a configuration, asking for what it needs, and make the first login code.
    #[command(after_help = setup::EXAMPLES)]
    Setup(setup::SetupArgs),
    /// Make a one-time login code, good for 10 minutes: on the collector's host, or with --api or --context by the
    /// API.
    #[command(after_help = login::CODE_EXAMPLES)]
    LoginCode(CodeArgs),
    /// Exchange a login code for a session of 12 hours, and remember it in a context.
    #[command(after_help = login::LOGIN_EXAMPLES)]
    Login(login::LoginArgs),
    /// End the session that a login began.
    #[command(after_help = login::LOGOUT_EXAMPLES)]
    Logout,
    /// Make, list and revoke onboarding tokens.
    #[command(alias = "token", subcommand)]
    Tokens(tokens::Command),
    /// Bring a host in: register what is missing, and print one command to paste there.
    #[command(after_help = onboard::EXAMPLES)]
    Onboard(Box<onboard::OnboardArgs>),
    /// Make, fetch and follow onboarding packages: registration, token and configuration in one.
    #[command(alias = "package", subcommand)]
    Packages(packages::Command),
    /// Look at the configuration tree, and keep a copy of it in a directory.
    #[command(subcommand)]
    Config(tree::Command),
    /// Decide on hosts that ask to be let in.
    #[command(alias = "approval", subcommand)]
    Approvals(approvals::Command),
    /// Who was turned away, why, and what to do about it.
    #[command(alias = "knock", subcommand)]
    Knocks(knocks::Command),
    /// List, look at and change services.
    #[command(alias = "service", subcommand)]
    Services(services::Command),
    /// Register and change services to what a manifest says.
    #[command(after_help = apply::EXAMPLES)]
    Apply(apply::ApplyArgs),
    /// See, start, switch and pause what happens by itself.
    #[command(alias = "job", subcommand)]
    Jobs(jobs::Command),
    /// Make, list and revoke API keys.
    #[command(alias = "key", subcommand)]
    Keys(keys::Command),
    /// Act on the collector's own access.
    #[command(subcommand)]
    Admin(keys::AdminCommand),
    /// Show who the caller is, and what it may do.
    #[command(after_help = "Example:\n  rollcall-collector whoami")]
    Whoami,
    /// List or remove services whose retention is over.
    #[command(after_help = jobs::PURGE_EXAMPLES)]
    Purge(jobs::PurgeArgs),
    /// Say that services are worked on, so that nobody is alarmed.
    #[command(subcommand)]
    Maintenance(maintenance::Command),
    /// Show the audit trail, newest first.
    #[command(after_help = AUDIT_EXAMPLES)]
    Audit(trail::Trail),
    /// Follow what changes, as it changes.
    #[command(after_help = WATCH_EXAMPLES)]
    Watch(feed::Watch),
    /// Count services by kind, status and presence.
    #[command(after_help = "Examples:\n  rollcall-collector stats\n  rollcall-collector stats --output json")]
    Stats,
    /// Remember collectors, and choose among them.
    #[command(alias = "contexts", subcommand)]
    Context(context::Command),
    /// Print the completions of a shell.
    #[command(after_help = COMPLETIONS_EXAMPLES)]
    Completions {
        /// The shell.
        shell: Shell,
    },
}

const AUDIT_EXAMPLES: &str = "\
Examples:
  rollcall-collector audit --object agent/edge-17
  rollcall-collector audit --action service.revoked --output json
  rollcall-collector audit verify";

const WATCH_EXAMPLES: &str = "\
Examples:
  rollcall-collector watch --type service.status,service.presence
  rollcall-collector watch --subtree poller/site-3 --output json";

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  rollcall-collector completions bash > /etc/bash_completion.d/rollcall-collector
  rollcall-collector completions zsh > \"${fpath[1]}/_rollcall-collector\"
  rollcall-collector completions fish > ~/.config/fish/completions/rollcall-collector.fish";

/// Settings that flags lay over the configuration files and the environment.
#[derive(Debug, Args)]
struct ServeArgs {
    /// Configuration file; the files in the directory of the same name ending in .d are laid over it
    /// [default: /etc/rollcall/collector.toml].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory of keys, the registry and the bootstrap credential.
    #[arg(long, value_name = "DIR")]
    state_dir: Option<String>,
    /// Name of this collector.
    #[arg(long)]
    name: Option<String>,
    /// Trust domain of the deployment.
    #[arg(long, value_name = "DOMAIN")]
    trust_domain: Option<String>,
    /// UDP address for sidecars, as in [::]:7411.
    #[arg(long, value_name = "ADDR")]
    quic_listen: Option<String>,
    /// Address for the API, as in 127.0.0.1:7410; beyond loopback it needs a certificate.
    #[arg(long, value_name = "ADDR")]
    http_listen: Option<String>,
    /// Certificate that the API is encrypted with, and those that vouch for it (PEM).
    #[arg(long, value_name = "FILE")]
    http_tls_cert: Option<String>,
    /// Its private key (PEM, mode 0600).
    #[arg(long, value_name = "FILE")]
    http_tls_key: Option<String>,
    /// Addresses that tokens tell sidecars to dial, with commas between them.
    #[arg(long, value_name = "HOST:PORT,…")]
    advertise: Option<String>,
    /// Time between two heartbeats.
    #[arg(long, value_name = "DURATION")]
    interval: Option<String>,
    /// Silence after which a service is lost; at least three intervals.
    #[arg(long, value_name = "DURATION")]
    ttl: Option<String>,
    /// Where the registry is kept: sqlite or sqlite:///path.
    #[arg(long, value_name = "STORE")]
    registry: Option<String>,
    /// text or json.
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// error, warn, info, debug, trace, or a filter of them.
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
}

impl ServeArgs {
    fn flags(self) -> Flags {
        let given = [
            ("state_dir", self.state_dir),
            ("name", self.name),
            ("trust_domain", self.trust_domain),
            ("quic_listen", self.quic_listen),
            ("http_listen", self.http_listen),
            ("http_tls_cert", self.http_tls_cert),
            ("http_tls_key", self.http_tls_key),
            ("advertise", self.advertise),
            ("interval", self.interval),
            ("ttl", self.ttl),
            ("registry", self.registry),
            ("log.format", self.log_format),
            ("log.level", self.log_level),
        ];
        let values = given.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
        Flags { file: self.config, values }
    }
}

/// Where the collector is whose code is made.
#[derive(Debug, Args)]
struct CodeArgs {
    /// Its configuration file [default: /etc/rollcall/collector.toml].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Its state directory, where that differs from the configured one.
    #[arg(long, value_name = "DIR")]
    state_dir: Option<String>,
}

/// What the command line came to.
#[derive(Debug)]
pub enum Start {
    /// The collector is to run; the flags are there for reading the configuration again.
    Serve(Box<Config>, Flags),
    /// Everything is done.
    Done(Exit),
    /// A command of somebody else's has run and answered so.
    Ran(u8),
}

/// Reads the command line and does what it says, except for running the collector.
pub fn start(args: impl IntoIterator<Item = OsString>, source: &dyn Source) -> Start {
    let cli = grammar().try_get_matches_from(args).and_then(|matches| Cli::from_arg_matches(&matches));
    let outcome = match cli {
        Ok(cli) => run(cli, source, Screen::of_process(source)),
        Err(error) => {
            // Help and version are asked for, and go to stdout; clap knows which.
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Well };
            let _ = error.print();
            Ok(Start::Done(exit))
        }
    };
    outcome.unwrap_or_else(|failure| {
        if !failure.message.is_empty() {
            let _ = fail(failure.exit, &failure.message);
        }
        Start::Done(failure.exit)
    })
}

/// Says on standard error why the program ends, and answers with the exit code.
#[must_use]
pub fn fail(exit: Exit, why: &str) -> ExitCode {
    // Nobody is left to tell where standard error is closed.
    let _ = writeln!(io::stderr().lock(), "rollcall-collector: {why}");
    exit.into()
}

/// The grammar. Flags that reach a collector are hidden where there is none to reach.
#[must_use]
pub fn grammar() -> clap::Command {
    let mut grammar = Cli::command();
    grammar.build();
    for local in ["serve", "check", "completions", "setup"] {
        grammar = grammar.mut_subcommand(local, |command| {
            command.mut_args(|arg| if arg.is_global_set() { arg.hide(true) } else { arg })
        });
    }
    grammar
}

fn run(cli: Cli, source: &dyn Source, screen: Screen) -> Result<Start, Failure> {
    let Cli { reach, command } = cli;
    let mut screen = screen.speaking(&reach);
    let load =
        |flags: &Flags| Config::load(source, flags).map_err(|errors| Failure::new(Exit::Config, errors.to_string()));
    let serves = matches!(command, Command::Serve(_) | Command::Check(_));
    if serves && !reach.is_default() {
        return Err(Failure::usage("serve and check reach no collector: leave --api, --context and the like out"));
    }
    match command {
        Command::Serve(args) => {
            let flags = args.flags();
            return load(&flags).map(|config| Start::Serve(Box::new(config), flags));
        }
        Command::Check(args) => {
            let config = load(&args.flags())?;
            let pair = config.http_tls.as_ref().map(Pair::load).transpose();
            let pair = pair.map_err(|error| Failure::new(Exit::Config, error.to_string()))?;
            screen.config(&config, pair.map(|pair| certificate(&pair)))?;
        }
        Command::Doctor(args) => {
            let exit = doctor::run(&reach, source, &mut screen, args, &|config| {
                let pair = config.http_tls.as_ref().map(Pair::load).transpose().map_err(|error| error.to_string())?;
                Ok(pair.map(|Pair { names, doubts, not_before, not_after, .. }| doctor::WebCertificate {
                    names,
                    doubts,
                    not_before,
                    not_after,
                }))
            })?;
            return Ok(Start::Done(exit));
        }
        Command::Setup(args) => setup::run(source, &mut screen, args, &|config| names_of(config, true))?,
        Command::LoginCode(CodeArgs { config, state_dir }) => {
            if reach.api.is_some() || reach.context.is_some() {
                operate(&reach, source, screen, async |client, screen| login::ask_for_code(&client, screen).await)?;
            } else {
                let values = state_dir.into_iter().map(|dir| ("state_dir", dir)).collect();
                let config = Config::load(source, &Flags { file: config, values })
                    .map_err(|errors| Failure::new(Exit::Config, errors.to_string()))?;
                let (names, _) = names_of(&config, true).unwrap_or_default();
                let code = login::make(&config)?;
                login::tell(&mut screen, &code, &login::api_of(&config, &names))?;
            }
        }
        Command::Login(args) => login::login(&reach, source, &mut screen, args)?,
        Command::Logout => {
            operate(&reach, source, screen, async |client, screen| login::logout(&client, source, screen).await)?;
        }
        Command::Tokens(command) => {
            operate(&reach, source, screen, async |client, screen| tokens::run(&client, screen, command).await)?;
        }
        Command::Onboard(args) => {
            operate(&reach, source, screen, async |client, screen| onboard::run(&client, screen, *args).await)?;
        }
        Command::Config(command) => {
            operate(&reach, source, screen, async |client, screen| tree::run(&client, screen, command).await)?;
        }
        Command::Packages(command) => {
            operate(&reach, source, screen, async |client, screen| packages::run(&client, screen, command).await)?;
        }
        Command::Approvals(command) => {
            operate(&reach, source, screen, async |client, screen| approvals::run(&client, screen, command).await)?;
        }
        Command::Knocks(command) => {
            operate(&reach, source, screen, async |client, screen| knocks::run(&client, screen, command).await)?;
        }
        Command::Services(command) => {
            operate(&reach, source, screen, async |client, screen| services::run(&client, screen, command).await)?;
        }
        Command::Apply(args) => {
            operate(&reach, source, screen, async |client, screen| apply::run(&client, screen, source, args).await)?;
        }
        Command::Jobs(command) => {
            operate(&reach, source, screen, async |client, screen| jobs::run(&client, screen, command).await)?;
        }
        Command::Keys(command) => {
            operate(&reach, source, screen, async |client, screen| keys::run(&client, screen, command).await)?;
        }
        Command::Admin(command) => {
            operate(&reach, source, screen, async |client, screen| keys::admin(&client, screen, command).await)?;
        }
        Command::Whoami => {
            operate(&reach, source, screen, async |client, screen| keys::whoami(&client, screen).await)?;
        }
        Command::Purge(args) => {
            operate(&reach, source, screen, async |client, screen| jobs::purge(&client, screen, args).await)?;
        }
        Command::Maintenance(command) => {
            let ran = operate(&reach, source, screen, async |client, screen| {
                maintenance::run(&client, screen, command).await
            })?;
            if let Some(code) = ran {
                return Ok(Start::Ran(code));
            }
        }
        Command::Audit(trail) => {
            if let Some(trail) = trail.offline(&mut screen)? {
                operate(&reach, source, screen, async |client, screen| trail::run(&client, screen, trail).await)?;
            }
        }
        Command::Watch(watch) => {
            operate(&reach, source, screen, async |client, screen| feed::run(&client, screen, watch).await)?;
        }
        Command::Stats => {
            operate(&reach, source, screen, async |client, screen| records::stats(&client, screen).await)?;
        }
        Command::Context(command) => context::run(&reach, source, &mut screen, command)?,
        Command::Completions { shell } => {
            // Gathered first: the generator knows no reader that went away.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "rollcall-collector", &mut script);
            screen.text(&String::from_utf8_lossy(&script))?;
        }
    }
    Ok(Start::Done(Exit::Well))
}

/// The names that the API's certificate stands for, and what is doubtful about it. Whoever sets a collector up is
/// often root, and not the user that it will run as.
fn names_of(config: &Config, by_root: bool) -> Result<(Vec<String>, Vec<String>), Failure> {
    let Some(files) = &config.http_tls else { return Ok(Default::default()) };
    match Pair::load(files) {
        Ok(pair) => {
            let (_, doubts) = certificate(&pair);
            Ok((pair.names, doubts))
        }
        Err(PairError::Key { error: error @ StateDirError::Owner { .. } }) if by_root => {
            Ok((Vec::new(), vec![format!("the collector must run as the owner of its key: {error}")]))
        }
        Err(error) => Err(Failure::new(Exit::Config, error.to_string())),
    }
}

/// What the API's certificate is good for, and what is doubtful about it.
fn certificate(pair: &Pair) -> (Word, Vec<String>) {
    let now = print::now();
    let word = Word::plain(format!("for {}, until {}", pair.names.join(", "), pair.not_after));
    let mut doubts: Vec<String> = pair.doubts.iter().map(|doubt| format!("of the certificate: {doubt}")).collect();
    if now >= pair.not_after {
        doubts.push("the certificate has expired: clients refuse it".into());
    } else if now < pair.not_before {
        doubts.push(format!("the certificate is not valid before {}", pair.not_before));
    }
    (word, doubts)
}

/// How many items a manifest of an operator's holds; for the fuzzer, and the replay of what it kept.
#[cfg(any(test, feature = "test-util"))]
#[must_use]
pub fn items_of_manifest(text: &str) -> Option<usize> {
    apply::manifest::read(text).ok().map(|items| items.len())
}

/// Runs an operator's command to its end.
fn operate<T>(
    reach: &Reach,
    source: &dyn Source,
    mut screen: Screen,
    command: impl AsyncFnOnce(Client, &mut Screen) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let client = Client::open(Target::find(reach, source)?, source)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(command(client, &mut screen))
}

#[cfg(test)]
mod tests;

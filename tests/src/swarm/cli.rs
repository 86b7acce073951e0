//! Flags, what they mean, and what each command does with them.

use std::{
    io::{BufWriter, Write as _},
    net::{SocketAddr, ToSocketAddrs as _},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, Parser, Subcommand};
use rollcall_collector::config::duration;
use rollcall_common::time::{Clock as _, SystemClock};

use super::{
    api::Api,
    baseline, feed,
    fleet::{Fleet, Manner},
    gauge::Pid,
    guard,
    plan::Shape,
    queries,
    recruit::{Mint, Recruiting},
    report::{self, Figures, Output},
    run, shelf, storm, tree,
};

const EXAMPLES: &str = "\
Examples:
  With `make run` in another terminal, and `. .rollcall/env` in this one:

  Enroll 2,000 pollers; what is there already is not enrolled again:
    rollcall-swarm enroll --count 2000 --dir /tmp/swarm

  Let them beat for three minutes, and account the collector's CPU time and memory:
    rollcall-swarm run --count 2000 --dir /tmp/swarm --duration 3m --collector-pid 4711

  Kill one in ten and stop one in twenty, start them again after a minute:
    rollcall-swarm run --count 2000 --dir /tmp/swarm --duration 30s \\
      --kill-fraction 0.1 --stop-fraction 0.05 --revive-after 60s

  Watch everybody come back while somebody kills and restarts the collector:
    rollcall-swarm storm --count 2000 --dir /tmp/swarm --collector-pid 4711

  What would the same number of beats cost over HTTP?
    rollcall-swarm baseline --count 2000 --interval 1s

  A fleet to register, for measurements of the registry:
    rollcall-swarm tree --count 100000

  How long do 16 operators wait for their answers?
    rollcall-swarm queries --api http://127.0.0.1:7410 --credential-file admin.credential \\
      --clients 16 --collector-pid 4711

Exit codes: 0 well; 1 a beat was lost, a verdict was false, somebody did not come back, or it did not run at
all; 2 usage.";

/// Thousands of Rollcall sidecars in one process.
#[derive(Debug, Parser)]
#[command(name = "rollcall-swarm", version, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Enroll identities and keep them on disk
    Enroll(Enroll),
    /// Let the enrolled beat, and measure
    Run(Run),
    /// Wait for the collector to be killed and restarted, and measure how everybody comes back
    Storm(Storm),
    /// Measure what a user would build instead: HTTP/1.1 with TLS and keep-alive
    Baseline(Baseline),
    /// Print a realistic tree of registrations, one JSON object a line
    Tree {
        /// How many services: of 100,000 there are 500 pollers, 10,000 agents and 89,500 checkers
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        count: u32,
    },
    /// Ask what operators and programs ask, many at once
    Queries(Queries),
    /// Follow the change feed with many readers while many changes happen: does each see every one?
    Feed(feed::Feed),
    /// The baseline's server
    #[command(hide = true)]
    BaselineServe {
        /// Where its certificate and key are
        dir: PathBuf,
    },
}

#[derive(Debug, Args)]
struct Baseline {
    /// How many connections
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(guard::MAX_COUNT)))]
    count: u32,
    /// Between two requests on one connection
    #[arg(long, default_value = "1s", value_parser = time)]
    interval: Duration,
    /// How long to measure, once all are served
    #[arg(long, default_value = "60s", value_parser = time)]
    duration: Duration,
    /// Connections are opened over this time
    #[arg(long, default_value = "10s", value_parser = time)]
    ramp: Duration,
    /// How figures are printed
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Save the figures as JSON in this file too
    #[arg(long)]
    save: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Queries {
    /// Callers at once
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=256))]
    clients: u32,
    /// What a caller thinks between an answer and the next question
    #[arg(long, default_value = "50ms", value_parser = time)]
    think: Duration,
    /// How long each kind of query is asked
    #[arg(long, default_value = "5s", value_parser = time)]
    each: Duration,
    /// The collector's process, to account its CPU time
    #[arg(long)]
    collector_pid: Option<u32>,
    /// The collector's API, as in http://127.0.0.1:7410
    #[arg(long, env = "ROLLCALL_API")]
    api: String,
    /// The file with the API's bearer credential
    #[arg(long, env = "ROLLCALL_CREDENTIAL_FILE")]
    credential_file: PathBuf,
    /// How figures are printed
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Save the figures as JSON in this file too
    #[arg(long)]
    save: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Common {
    /// How many sidecars
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(guard::MAX_COUNT)))]
    count: u32,
    /// Where the identities are kept: a directory of mode 0700
    #[arg(long)]
    dir: PathBuf,
    /// The collector's API, as in http://127.0.0.1:7410
    #[arg(long, env = "ROLLCALL_API")]
    api: Option<String>,
    /// The file with the API's bearer credential
    #[arg(long, env = "ROLLCALL_CREDENTIAL_FILE")]
    credential_file: Option<PathBuf>,
    /// Allow a collector on another host
    #[arg(long)]
    allow_remote: bool,
    /// How figures are printed
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Save the figures as JSON in this file too
    #[arg(long)]
    save: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Enroll {
    #[command(flatten)]
    common: Common,
    /// One poller, 20 agents under it, 4 checkers under each, and so on; without this, pollers only
    #[arg(long)]
    tree: bool,
    /// Use the bulk token for pollers in this file instead of making one
    #[arg(long, conflicts_with = "tree")]
    token_file: Option<PathBuf>,
    /// What the token in the file demands of ids; without this the collector assigns them
    #[arg(long, requires = "token_file")]
    id_prefix: Option<String>,
    /// Enrollments at once
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    parallel: u16,
    /// The collector's process, to account its CPU time
    #[arg(long)]
    collector_pid: Option<u32>,
}

#[derive(Debug, Args)]
struct Sessions {
    /// First dials are spread over this time
    #[arg(long, default_value = "30s", value_parser = time)]
    ramp: Duration,
    /// Dial this address instead of those that the identities came with
    #[arg(long)]
    collector: Option<SocketAddr>,
    /// UDP sockets to share; each has an address of its own on loopback
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u8).range(1..=64))]
    sockets: u8,
    /// Decides who meets which fate, and all jitter
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Debug, Args)]
struct Run {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    sessions: Sessions,
    /// How long to measure, once everybody beats
    #[arg(long, default_value = "180s", value_parser = time)]
    duration: Duration,
    /// The collector's process, to account its CPU time and memory
    #[arg(long)]
    collector_pid: Option<u32>,
    /// The collector's anonymous memory with an empty registry, in bytes: then its entries count too
    #[arg(long)]
    memory_base: Option<u64>,
    /// After that, drop this share of all without a word
    #[arg(long, default_value_t = 0.0, value_parser = share)]
    kill_fraction: f64,
    /// After that, let this share of all say goodbye
    #[arg(long, default_value_t = 0.0, value_parser = share)]
    stop_fraction: f64,
    /// Start those again, so long after
    #[arg(long, value_parser = time)]
    revive_after: Option<Duration>,
}

#[derive(Debug, Args)]
struct Storm {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    sessions: Sessions,
    /// The collector's process, whose end is waited for
    #[arg(long)]
    collector_pid: u32,
    /// Where the process id of its successor will stand, to account its CPU time
    #[arg(long)]
    pid_file: Option<PathBuf>,
    /// Make this file when everybody beats
    #[arg(long)]
    ready_file: Option<PathBuf>,
    /// How long to wait for the outage, for its end, and for the last one
    #[arg(long, default_value = "120s", value_parser = time)]
    patience: Duration,
}

impl Cli {
    /// Whether the work takes as many threads as a collector has: the baseline's server stands for one.
    #[must_use]
    pub fn is_server(&self) -> bool {
        matches!(self.command, Command::BaselineServe { .. } | Command::Feed(_))
    }

    /// Does what was asked. Answers whether all was well.
    ///
    /// # Errors
    /// When it could not be done.
    pub async fn perform(self) -> Result<bool> {
        match self.command {
            Command::Enroll(enroll) => enroll.perform().await,
            Command::Run(run) => run.perform().await,
            Command::Storm(storm) => storm.perform().await,
            Command::Baseline(baseline) => baseline.perform().await,
            Command::Queries(queries) => queries.perform().await,
            Command::Feed(feed) => feed.perform().await,
            Command::Tree { count } => print_tree(count).map(|()| true),
            Command::BaselineServe { dir } => baseline::serve(&dir).await.map(|()| true),
        }
    }
}

impl Common {
    fn api(&self) -> Result<Option<Api>> {
        let (Some(url), Some(file)) = (&self.api, &self.credential_file) else { return Ok(None) };
        Ok(Some(Api::new(guard::api(url, self.allow_remote)?, file)?))
    }

    fn demand_api(&self) -> Result<Api> {
        self.api()?.context("give --api and --credential-file (or source .rollcall/env of `make run`)")
    }

    fn finish(&self, figures: &impl Figures) -> Result<bool> {
        report::print(figures, self.output, self.save.as_deref())?;
        Ok(figures.failures().is_empty())
    }

    /// The shelf stays open, so that no other swarm uses the same identities.
    fn launch(&self, sessions: &Sessions, kill: f64, stop: f64) -> Result<(shelf::Shelf, Fleet)> {
        guard::collector(sessions.collector, self.allow_remote)?;
        let shelf = shelf::Shelf::open(&self.dir)?;
        let members = shelf.first(self.count, SystemClock.now().wall)?;
        guard::local_only(members.iter().flat_map(|member| &member.addresses), self.allow_remote)?;
        let Sessions { ramp, collector, sockets, seed } = *sessions;
        Ok((shelf, Fleet::launch(members, &Manner { ramp, collector, sockets, kill, stop, seed })?))
    }
}

impl Enroll {
    async fn perform(self) -> Result<bool> {
        let api;
        let mint = match &self.token_file {
            Some(file) => Mint::Given { token: token(file)?, prefix: self.id_prefix.clone() },
            None => {
                api = self.common.demand_api()?;
                Mint::Api(&api)
            }
        };
        let recruiting = Recruiting {
            mint,
            shape: if self.tree { Shape::Tree } else { Shape::Flat },
            count: self.common.count,
            parallel: self.parallel.into(),
            collector: self.collector_pid.map(Pid),
            allow_remote: self.common.allow_remote,
        };
        let enrolled = recruiting.run(&self.common.dir).await?;
        self.common.finish(&enrolled)
    }
}

impl Run {
    async fn perform(self) -> Result<bool> {
        let (kill, stop) = (self.kill_fraction, self.stop_fraction);
        ensure!(kill + stop <= 1.0, "--kill-fraction and --stop-fraction are more than everybody");
        let faults = kill + stop > 0.0;
        let plan = run::Plan {
            duration: self.duration,
            ramp: self.sessions.ramp,
            collector: self.collector_pid.map(Pid),
            empty: self.memory_base,
            api: if faults { Some(self.common.demand_api()?) } else { self.common.api()? },
            faults,
            revive_after: self.revive_after,
        };
        let before = plan.collector.map(Pid::anonymous).transpose()?;
        let (_shelf, fleet) = self.common.launch(&self.sessions, kill, stop)?;
        let report = run::run(fleet, &plan, before).await?;
        self.common.finish(&report)
    }
}

impl Baseline {
    async fn perform(self) -> Result<bool> {
        let Self { count, interval, duration, ramp, output, save } = self;
        let report = baseline::run(baseline::Plan { connections: count, interval, duration, ramp }).await?;
        report::print(&report, output, save.as_deref())?;
        Ok(report.failures.is_empty())
    }
}

impl Queries {
    async fn perform(self) -> Result<bool> {
        let api = Api::new(guard::api(&self.api, false)?, &self.credential_file)?;
        let Self { clients, think, each, .. } = self;
        let plan = queries::Plan { clients, think, each, collector: self.collector_pid.map(Pid) };
        let report = queries::run(&api, &plan).await?;
        report::print(&report, self.output, self.save.as_deref())?;
        Ok(report.failures.is_empty())
    }
}

impl Storm {
    async fn perform(self) -> Result<bool> {
        let api = self.common.demand_api()?;
        let url = self.common.api.as_deref().unwrap_or_default();
        let place = url.trim_start_matches("http://").trim_end_matches('/');
        let listening = place.to_socket_addrs().with_context(|| format!("{place} does not resolve"))?.next();
        let plan = storm::Plan {
            ramp: self.sessions.ramp,
            collector: Pid(self.collector_pid),
            pid_file: self.pid_file,
            listening: listening.with_context(|| format!("{place} does not resolve"))?,
            api,
            ready_file: self.ready_file,
            patience: self.patience,
        };
        let (_shelf, fleet) = self.common.launch(&self.sessions, 0.0, 0.0)?;
        let report = storm::run(fleet, &plan).await?;
        self.common.finish(&report)
    }
}

fn print_tree(count: u32) -> Result<()> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    match tree::write(count, &mut out).and_then(|()| out.flush()) {
        // Its reader has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        done => done.context("cannot write the tree"),
    }
}

fn token(file: &Path) -> Result<rollcall_common::token::Token> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {file:?}"))?;
    text.trim().parse().with_context(|| format!("{file:?} holds no token"))
}

fn time(text: &str) -> Result<Duration, String> {
    let time = duration::parse(text).map_err(|error| error.to_string())?;
    if time > guard::MAX_TIME { Err("a day is the longest".into()) } else { Ok(time) }
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "must be a number between 0 and 1".into())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_flags_are_consistent_and_the_examples_parse() {
        Cli::command().debug_assert();
        let joined = EXAMPLES.replace("\\\n", " ");
        let examples = joined.lines().map(str::trim).filter(|line| line.starts_with("rollcall-swarm "));
        let mut seen = 0;
        for example in examples {
            Cli::try_parse_from(example.split_whitespace()).unwrap_or_else(|error| panic!("{example}: {error}"));
            seen += 1;
        }
        assert_eq!(seen, 7);
    }

    #[test]
    fn bounds_are_told() {
        assert!(time("25h").is_err() && time("3m").is_ok());
        assert!(share("1.1").is_err() && share("-0.1").is_err() && share("x").is_err() && share("0.5").is_ok());
        let parse = |count: &str| Cli::try_parse_from(["x", "run", "--dir", "/tmp/x", "--count", count]);
        assert!(parse("0").is_err() && parse("200001").is_err() && parse("1").is_ok());
    }
}

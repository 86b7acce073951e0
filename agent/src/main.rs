//! The sidecar's process: parse, log, run, exit code.

use std::{process::ExitCode, sync::Arc, time::Duration};

use clap::Parser;
use rollcall_agent::{
    agent::{Agent, Fault, Reread},
    cli::{Cli, Command, Exit, complain, explain},
    key::forbid_core_dumps,
    log,
    probe::check::THREADS,
    signals::{Signals, pass_on},
};
use rollcall_common::{identity::tls, time::SystemClock};
use tokio::runtime::{Builder, Runtime};

/// Threads for names of collectors, beside those for probes.
const OWN_THREADS: usize = 2;

/// How long a thread stays that has nothing to do: longer than most probes rest between two looks, or each look would
/// make one anew.
const THREADS_STAY: Duration = Duration::from_secs(70);

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return explain(&error).into(),
    };
    // Our own TLS settings name their provider; the default is for whoever asks for one.
    let _ = rustls::crypto::CryptoProvider::install_default((*tls::provider()).clone());
    // Threads are for what may hang in the kernel: names of collectors, and what probes reach for. They come when
    // there is something to do, and go when there is not.
    let threads = OWN_THREADS + THREADS;
    let mut runtime = Builder::new_current_thread();
    let runtime = match runtime.enable_all().max_blocking_threads(threads).thread_keep_alive(THREADS_STAY).build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&error, Exit::Config).into(),
    };
    let command = cli.command();
    let exit =
        if matches!(command, Command::Run) { run(&cli, &runtime) } else { runtime.block_on(cli.perform(command)) };
    // A look-up that hangs must not hold the process.
    runtime.shutdown_timeout(Duration::ZERO);
    exit.into()
}

fn run(cli: &Cli, runtime: &Runtime) -> Exit {
    let config = match cli.config() {
        Ok(config) => config,
        Err(problems) => return complain(&problems, Exit::Config),
    };
    log::start(config.log);
    forbid_core_dumps();
    let (sender, signals) = Signals::channel();
    let again = cli.clone();
    let outcome = runtime.block_on(async {
        let agent = Agent::prepare(config, Arc::new(SystemClock))?;
        let agent = agent.rereading(Reread::by(move || again.config()));
        tokio::select! {
            outcome = agent.run(signals) => outcome,
            Err(error) = pass_on(sender) => Err(Fault::Signals(error)),
        }
    });
    match outcome {
        Ok(()) => Exit::Well,
        Err(fault) => {
            tracing::error!("{fault}");
            fault.exit()
        }
    }
}

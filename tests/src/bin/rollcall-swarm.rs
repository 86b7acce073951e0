//! The load generator's process: parse, log, run, exit code. What it does is in `rollcall_tests::swarm`.

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Parser as _;
use rollcall_collector::serve;
use rollcall_common::identity::tls;
use rollcall_tests::swarm::cli::Cli;
use tokio::runtime::Builder;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(ansi)
        .with_writer(std::io::stderr)
        .init();
    // Our own TLS settings name their provider; the default is for whoever asks for one.
    let _ = rustls::crypto::CryptoProvider::install_default((*tls::provider()).clone());
    match run(cli) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// One thread, as each sidecar has one: its CPU time is what the sessions cost.
fn run(cli: Cli) -> Result<bool> {
    let mut builder = if cli.is_server() { Builder::new_multi_thread() } else { Builder::new_current_thread() };
    let runtime = builder.worker_threads(serve::WORKERS).enable_all().build().context("no runtime")?;
    runtime.block_on(async {
        tokio::select! {
            outcome = cli.perform() => outcome,
            _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        }
    })
}

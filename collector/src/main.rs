//! The collector's program: reads the command line, then runs the collector or ends.

use std::process::ExitCode;

use rollcall_collector::{
    cli::{self, Exit, Start},
    config::{Config, Flags, System},
    log, serve,
};

fn main() -> ExitCode {
    match cli::start(std::env::args_os(), &System) {
        Start::Serve(config, flags) => run(*config, &flags),
        Start::Done(exit) => exit.into(),
        Start::Ran(code) => code.into(),
    }
}

fn run(config: Config, flags: &Flags) -> ExitCode {
    if let Err(error) = log::start(&config.log) {
        return cli::fail(Exit::Config, &error);
    }
    // Libraries that look at the process default find the one provider there is. It is installed once.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(serve::WORKERS).enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(serve::run(config, &|| Config::load(&System, flags))),
        Err(error) => cli::fail(Exit::Failed, &format!("no runtime: {error}")),
    }
}

//! placeholder
use std::process::ExitCode;
fn main() -> ExitCode {
    let config = rollcall_collector::config::Config::load(&rollcall_collector::config::System, &Default::default())
        .unwrap_or_else(|e| panic!("{e}"));
    rollcall_collector::serve::init_logs(&config.log).unwrap_or_default();
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap_or_else(|e| panic!("{e}"))
        .block_on(rollcall_collector::serve::run(config))
}

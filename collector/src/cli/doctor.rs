//! `doctor`: is this host fit for a collector, and is the one that runs on it well?
//!
//! What is seen is [`look`]'s, what to think of it [`judge`]'s: pure, so that every finding has a test. Of the running
//! collector it knows what everybody may: `/readyz`, an answer on its UDP port, the files of its state directory.

mod judge;
mod look;

use std::{path::PathBuf, time::Duration};

use clap::Args;
use serde_json::json;

pub(super) use self::judge::WebCertificate;
use self::judge::{Finding, Verdict};
use super::{
    Exit, Failure,
    client::Client,
    login, print,
    print::{Output, Screen, Word},
    reach::{Origin, Reach, Target},
};
use crate::config::{Config, Flags, Source};

pub(super) const EXAMPLES: &str = "\
Examples:
  rollcall-collector doctor                        what is wrong, and what to do about it
  rollcall-collector doctor --output json          for programs
  sudo -u rollcall-collector rollcall-collector doctor     with the eyes of the service

Exit codes: 0 nothing stands in the way (doubts are no fault), 1 something does, 78 the configuration is broken.";

/// How long the collector's API may take to answer.
const WITHIN: Duration = Duration::from_secs(5);

/// Which collector is looked at.
#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Its configuration file [default: /etc/rollcall/collector.toml].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Its state directory, where that differs from the configured one.
    #[arg(long, value_name = "DIR")]
    state_dir: Option<String>,
}

/// What the API's certificate says of itself: the names that it stands for, what is doubtful, its end.
pub(super) type Certificate = Result<Option<WebCertificate>, String>;

pub(super) fn run(
    reach: &Reach,
    source: &dyn Source,
    screen: &mut Screen,
    args: DoctorArgs,
    certificate: &dyn Fn(&Config) -> Certificate,
) -> Result<Exit, Failure> {
    let values = args.state_dir.into_iter().map(|dir| ("state_dir", dir)).collect();
    let config = match Config::load(source, &Flags { file: args.config, values }) {
        Ok(config) => config,
        Err(errors) => {
            let findings =
                errors.0.iter().map(|error| Finding::fault("configuration", error.to_string(), "correct it"));
            show(screen, &findings.collect::<Vec<_>>())?;
            return Ok(Exit::Config);
        }
    };
    let web = certificate(&config);
    let names = web.as_ref().ok().and_then(|web| web.as_ref()).map(|web| web.names.clone()).unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let readiness = runtime.block_on(readiness(reach, source, login::api_of(&config, &names)));
    let running = readiness.is_ok() || look::holder(&config.state_dir).is_some();

    let mut findings = vec![Finding::well("configuration", "it is good")];
    findings.extend(judge::api(&readiness, running));
    findings.extend(judge::udp(&look::udp(&config, running)));
    findings.extend(judge::buffers(&look::buffers()));
    findings.extend(judge::certificates(&web, look::root(&config.state_dir), print::now()));
    findings.extend(judge::state(&look::state(&config.state_dir)));
    findings.extend(judge::liveness(&look::liveness(&config)));
    findings.extend(judge::clock(look::clock()));
    findings.extend(judge::files(look::file_limit(&config.state_dir), config.limits.http_connections));
    show(screen, &findings)?;
    let worst = findings.iter().map(|finding| finding.verdict).max();
    Ok(if worst == Some(Verdict::Fault) { Exit::Failed } else { Exit::Well })
}

/// What the collector says of itself, or why it says nothing. No credential is needed, and none is read.
async fn readiness(reach: &Reach, source: &dyn Source, configured: String) -> Result<serde_json::Value, String> {
    let api = reach.api.clone().unwrap_or(configured);
    let api = super::reach::base(&api, &Origin::Flag("--api")).map_err(|failure| failure.to_string())?;
    let target = Target {
        api,
        origin: Origin::Default,
        credential_file: None,
        credential_origin: Origin::Default,
        ca_file: reach.ca_file.clone(),
    };
    let client = Client::open_to_log_in(target, source).map_err(|failure| failure.to_string())?;
    // Whoever looks into a collector that hangs does not want to wait as long as its callers do.
    let asked = tokio::time::timeout(WITHIN, client.get("/readyz", &[])).await;
    let asked = asked.map_err(|_| format!("no answer within {} s", WITHIN.as_secs()))?;
    asked.map_err(|failure| failure.to_string())
}

fn show(screen: &mut Screen, findings: &[Finding]) -> Result<(), Failure> {
    let worst = findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Well);
    match screen.output() {
        Output::Json => screen.json(&json!({ "verdict": worst.as_str(), "findings": findings }))?,
        Output::Raw => {
            for finding in findings.iter().filter(|finding| finding.verdict != Verdict::Well) {
                screen.line(finding.check)?;
            }
        }
        Output::Table => {
            let rows = findings.iter().flat_map(|finding| {
                let verdict = match finding.verdict {
                    Verdict::Well => Word::faint("well"),
                    Verdict::Doubt => Word::doubtful("doubt"),
                    Verdict::Fault => Word::bad("FAULT"),
                };
                let what = vec![verdict, Word::plain(finding.check), Word::plain(&finding.what)];
                let fix = finding.fix.as_ref();
                let fix = fix.map(|fix| vec![Word::plain(""), Word::plain(""), Word::faint(format!("→ {fix}"))]);
                std::iter::once(what).chain(fix)
            });
            screen.table(&[], rows.collect())?;
        }
    }
    Ok(())
}

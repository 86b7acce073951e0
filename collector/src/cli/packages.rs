//! The operator's commands on onboarding packages.

use std::{
    collections::BTreeMap,
    io::Read,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use reqwest::Method;
use rollcall_common::{
    address::Address,
    id::{Kind, ServiceId},
    token::PackageSecret,
};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{
    Exit, Failure,
    client::{Client, Output},
    context::keep,
    list::{self, Column, Flags, Sheet},
    print::{Screen, Word, age, field, now, word},
    services::pair,
    which::Named,
};
use crate::{cidr::Cidr, config::duration};

const ROOT: &str = "/api/admin/packages";
/// Longest download secret that is read from standard input.
const MAX_SECRET: u64 = 1024;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Register a service and make the package that brings it in.
    #[command(after_help = CREATE_EXAMPLES)]
    Create(Box<CreateArgs>),
    /// List packages.
    #[command(alias = "ls", after_help = LIST_EXAMPLES)]
    List(ListArgs),
    /// Show one package.
    #[command(after_help = "Example:\n  rollcall-collector packages show nq2k6zjw4m5pd3xo")]
    Show {
        /// The package's id.
        id: String,
    },
    /// Fetch a package, once; whoever did may do so again for ten minutes.
    #[command(after_help = DOWNLOAD_EXAMPLES)]
    Download(DownloadArgs),
    /// Give a package a new token and a new download secret; the old ones end.
    #[command(after_help = REISSUE_EXAMPLES)]
    Reissue(ReissueArgs),
    /// Take a package back; its token ends with it.
    #[command(after_help = "Example:\n  rollcall-collector packages revoke nq2k6zjw4m5pd3xo --reason 'wrong site'")]
    Revoke {
        /// The package's id.
        id: String,
        /// Revoke the service, too.
        #[arg(long)]
        service: bool,
        /// Why, for the audit trail.
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Put a package away that is used, revoked or expired.
    #[command(after_help = "Example:\n  rollcall-collector packages delete nq2k6zjw4m5pd3xo")]
    Delete {
        /// The package's id.
        id: String,
        /// Why, for the audit trail.
        #[arg(long, default_value = "")]
        reason: String,
    },
}

const CREATE_EXAMPLES: &str = "\
Examples:
  rollcall-collector packages create agent/edge-17 --parent site-3 --file edge-17.tar.gz
  rollcall-collector packages create checker/snmp-1 --parent edge-17 --checker-kind snmp --label site=3
  umask 077; rollcall-collector packages create poller/site-4 --expires-in 7d --output raw > site-4.secret";

const LIST_EXAMPLES: &str = "\
Examples:
  rollcall-collector packages list --status issued,delivered
  rollcall-collector packages list --columns id,service,status,created_by --watch";

const DOWNLOAD_EXAMPLES: &str = "\
Examples:
  rollcall-collector packages download nq2k6zjw4m5pd3xo --secret-file edge-17.secret
  rollcall-collector packages download nq2k6zjw4m5pd3xo --file /media/usb/edge-17.tar.gz < edge-17.secret

An installer without an account sends the secret alone:
  curl -fO -X POST -H @secret-header https://rollcall.example.net/api/packages/download";

const REISSUE_EXAMPLES: &str = "\
Examples:
  rollcall-collector packages reissue nq2k6zjw4m5pd3xo --file edge-17.tar.gz
  umask 077; rollcall-collector packages reissue nq2k6zjw4m5pd3xo --output raw > edge-17.secret";

#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    #[command(flatten)]
    service: Named,
    /// Id of its parent: required for agents and checkers.
    #[arg(long, value_name = "ID")]
    parent: Option<ServiceId>,
    /// What a checker checks, as in snmp.
    #[arg(long, value_name = "KIND")]
    checker_kind: Option<ServiceId>,
    /// The component that the service carries; the package's own id where none is named.
    #[arg(long, value_name = "ID")]
    component_id: Option<ServiceId>,
    /// A label, as in site=3; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    label: Vec<(String, String)>,
    /// Free metadata, as in rack=b7; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    metadata: Vec<(String, String)>,
    /// Take over a service that is registered already, pending and never seen.
    #[arg(long)]
    adopt: bool,
    /// Where it may be used from, as in 192.0.2.0/24; may be repeated.
    #[arg(long, value_name = "RANGE")]
    cidr: Vec<Cidr>,
    /// A note, for whoever reads the list.
    #[arg(long, default_value = "")]
    note: String,
    /// Where the sidecar dials whatever its token says; may be repeated.
    #[arg(long, value_name = "HOST:PORT")]
    config_address: Vec<Address>,
    /// How the sidecar logs: text or json.
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// How much the sidecar logs: error, warn, info, debug or trace.
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// How often the sidecar tries again once it is revoked, between 1s and 1d.
    #[arg(long, value_name = "DURATION", value_parser = life)]
    revoked_retry: Option<String>,
    #[command(flatten)]
    issue: IssueArgs,
}

/// What every issue of a package takes.
#[derive(Debug, Args)]
pub(super) struct IssueArgs {
    /// How long it can be used, as in 24h or 7d; at most 30d.
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = life)]
    expires_in: String,
    /// What its token dials, instead of what the collector advertises; may be repeated.
    #[arg(long, value_name = "HOST:PORT")]
    address: Vec<Address>,
    /// For a sidecar on the collector's own host.
    #[arg(long)]
    local: bool,
    /// Fetch it at once into this file (mode 0600).
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct ReissueArgs {
    /// The package's id.
    id: String,
    #[command(flatten)]
    issue: IssueArgs,
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// issued, delivered, activated, revoked, expired, deleted; several with commas.
    #[arg(long, value_name = "WORDS")]
    status: Option<String>,
    /// Only for poller, agent, checker or instance.
    #[arg(long)]
    kind: Option<Kind>,
    #[command(flatten)]
    flags: Flags,
}

#[derive(Debug, Args)]
pub(super) struct DownloadArgs {
    /// The package's id.
    id: String,
    /// File with the download secret; standard input where none is named.
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// Where to put it (mode 0600); its own name where none is given.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

fn life(text: &str) -> Result<String, String> {
    duration::parse(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

static SHEET: Sheet = Sheet {
    columns: &[
        Column::new("id", |item, _| word(item, "id")),
        Column::new("service", |item, _| word(item, "service")),
        Column::new("parent", |item, _| word(item, "parent")),
        Column::new("status", |item, _| Word::state(field(item, "status"))),
        Column::new("since", |item, now| age(item, "status_since", now)),
        Column::new("expires", |item, now| match field(item, "status").as_str() {
            "issued" | "delivered" => age(item, "expires_at", now),
            _ => Word::faint("-"),
        }),
        Column::new("note", |item, _| word(item, "note")),
        Column::hidden("created_by", |item, _| word(item, "created_by")),
        Column::hidden("delivered_to", |item, _| word(item, "delivered_to")),
        Column::hidden("issues", |item, _| word(item, "issues")),
        Column::hidden("token", |item, _| word(item, "token")),
    ],
    id: |item| field(item, "id"),
    told: &["service", "status"],
    none: "no package: make one with `packages create`",
    max: 1_000,
};

pub(super) async fn run(client: &Client, screen: &mut Screen, command: Command) -> Result<(), Failure> {
    let path = |id: &str| format!("{ROOT}/{id}");
    match command {
        Command::Create(args) => {
            let issue = (args.issue.file.clone(), body(*args));
            let item = client.create(ROOT, issue.1).await?;
            issued(client, screen, &item, issue.0.as_deref()).await
        }
        Command::List(args) => {
            let given = [("status", args.status), ("kind", args.kind.map(|kind| kind.to_string()))];
            let query: Vec<_> = given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
            list::run(client, screen, ROOT, &query, &args.flags, &SHEET).await
        }
        Command::Show { id } => {
            let item = client.get(&path(&checked(&id)?), &[]).await?;
            screen.one(&item, |item| field(item, "id"), facts)
        }
        Command::Download(args) => {
            let id = checked(&args.id)?;
            let secret = secret(args.secret_file.as_deref())?;
            let (file, _) = fetch(client, &id, &secret, args.file.as_deref()).await?;
            match screen.output() {
                Output::Json => screen.json(&json!({ "id": id, "file": file }))?,
                Output::Raw => screen.line(&file.display().to_string())?,
                Output::Table => screen.line(&format!(
                    "{} is written; copy it to its host and follow the README inside",
                    file.display()
                ))?,
            }
            Ok(())
        }
        Command::Reissue(args) => {
            let id = checked(&args.id)?;
            let IssueArgs { expires_in, address, local, file } = args.issue;
            let body = json!({ "expires_in": expires_in, "addresses": address, "local": local });
            let item = client.post(&format!("{}/reissue", path(&id)), body).await?;
            issued(client, screen, &item, file.as_deref()).await
        }
        Command::Revoke { id, service, reason } => {
            let id = checked(&id)?;
            let body = json!({ "service": service, "reason": reason });
            let item = client.post(&format!("{}/revoke", path(&id)), body).await?;
            told(screen, &item, "is revoked; its token lets nobody in any more")
        }
        Command::Delete { id, reason } => {
            let id = checked(&id)?;
            let reason = Some(reason).filter(|reason| !reason.is_empty());
            let query: Vec<_> = reason.map(|reason| ("reason".to_owned(), reason)).into_iter().collect();
            let item = client.call(Method::DELETE, &path(&id)).query(&query).send().await?.document;
            told(screen, &item, "is put away")
        }
    }
}

/// Accepts a whole download secret, too, and takes its public half: people copy what they have.
fn checked(text: &str) -> Result<String, Failure> {
    let rest = text.trim().strip_prefix("rollcall_pkg1_").unwrap_or(text.trim());
    let id = rest.split('_').next().unwrap_or_default();
    let good = id.len() == 16 && id.bytes().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7'));
    let help = "give the package's id: 16 letters and digits, as `packages list` shows it";
    if good { Ok(id.to_owned()) } else { Err(Failure::usage(help)) }
}

fn body(args: CreateArgs) -> Value {
    let map = |pairs: Vec<(String, String)>| pairs.into_iter().collect::<BTreeMap<_, _>>();
    json!({
        "kind": args.service.key.kind,
        "id": args.service.key.id,
        "parent": args.parent,
        "checker_kind": args.checker_kind,
        "component_id": args.component_id,
        "labels": map(args.label),
        "metadata": map(args.metadata),
        "adopt": args.adopt,
        "expires_in": args.issue.expires_in,
        "cidr_allow": args.cidr,
        "addresses": args.issue.address,
        "local": args.issue.local,
        "note": args.note,
        "config": {
            "addresses": args.config_address,
            "log_format": args.log_format,
            "log_level": args.log_level,
            "revoked_retry": args.revoked_retry,
        },
    })
}

/// Shows a package that was just issued, or fetches it at once.
async fn issued(client: &Client, screen: &mut Screen, item: &Value, file: Option<&Path>) -> Result<(), Failure> {
    let (id, secret) = (field(item, "id"), Zeroizing::new(field(item, "download_secret")));
    if let Some(file) = file {
        let (file, _) = fetch(client, &id, &secret, Some(file)).await?;
        // It did its work: nobody needs to see it.
        let mut shown = item.clone();
        if let Some(object) = shown.as_object_mut() {
            object.remove("download_secret");
            object.insert("file".into(), json!(file));
        }
        return match screen.output() {
            Output::Json => Ok(screen.json(&shown)?),
            Output::Raw => Ok(screen.line(&file.display().to_string())?),
            Output::Table => {
                screen.facts(facts(item))?;
                screen.line("")?;
                let text = format!("{} is written; copy it to its host and follow the README inside.", file.display());
                Ok(screen.line(&text)?)
            }
        };
    }
    match screen.output() {
        Output::Json => screen.json(item)?,
        Output::Raw => screen.line(&secret)?,
        Output::Table => {
            // In full and on a line of its own, whatever the terminal's width.
            screen.line(&secret)?;
            screen.line("")?;
            screen.facts(facts(item))?;
            screen.line("")?;
            screen.line("This is the only time that the download secret is shown. Fetch the package with")?;
            screen.line(&format!("`packages download {id}`, which asks for it on standard input."))?;
        }
    }
    Ok(())
}

/// Fetches a package into a file of its owner's.
pub(super) async fn fetch(
    client: &Client,
    id: &str,
    secret: &str,
    file: Option<&Path>,
) -> Result<(PathBuf, Vec<u8>), Failure> {
    let (offered, bytes) = bytes(client, id, secret).await?;
    // A name that a collector made up goes nowhere but here.
    let offered = offered.filter(|name| !name.contains('/') && !name.starts_with('.'));
    let path = file.map_or_else(|| PathBuf::from(offered.unwrap_or_else(|| format!("{id}.tar.gz"))), Path::to_owned);
    let path = std::path::absolute(path)?;
    keep::bytes(&path, &bytes)?;
    Ok((path, bytes))
}

/// Fetches a package: the name that it is offered under, and what it holds.
pub(super) async fn bytes(client: &Client, id: &str, secret: &str) -> Result<(Option<String>, Vec<u8>), Failure> {
    let call = client.call(Method::POST, &format!("{ROOT}/{id}/download"));
    let mut stream = call.header("rollcall-download-secret", secret).stream().await?;
    let offered = stream.header("content-disposition").and_then(|text| text.split('"').nth(1)).map(str::to_owned);
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.chunk().await? {
        bytes.extend_from_slice(&chunk);
    }
    Ok((offered, bytes))
}

fn secret(file: Option<&Path>) -> Result<Zeroizing<String>, Failure> {
    let mut text = Zeroizing::new(String::new());
    let (read, place) = match file {
        Some(path) => {
            let read = std::fs::File::open(path).and_then(|file| file.take(MAX_SECRET).read_to_string(&mut text));
            (read, path.display().to_string())
        }
        None => (std::io::stdin().lock().take(MAX_SECRET).read_to_string(&mut text), "standard input".to_owned()),
    };
    read.map_err(|error| Failure::new(Exit::Config, format!("cannot read the download secret: {place}: {error}")))?;
    let good = text.trim().parse::<PackageSecret>();
    good.map_err(|error| Failure::new(Exit::Config, format!("{place} holds no download secret: {error}")))?;
    Ok(Zeroizing::new(text.trim().to_owned()))
}

fn told(screen: &mut Screen, item: &Value, what: &str) -> Result<(), Failure> {
    match screen.output() {
        Output::Json => screen.json(item)?,
        Output::Raw => screen.line(&field(item, "id"))?,
        Output::Table => {
            screen.line(&format!("package {} ({}) {what}", field(item, "id"), field(item, "service")))?;
        }
    }
    Ok(())
}

fn facts(item: &Value) -> Vec<(&'static str, Word)> {
    let now = now();
    let mut facts = vec![
        ("package", word(item, "id")),
        ("service", word(item, "service")),
        ("parent", word(item, "parent")),
        (
            "status",
            Word::state(field(item, "status")).because(&format!("since {}", age(item, "status_since", now).text())),
        ),
        ("token", word(item, "token")),
        ("created by", word(item, "created_by").because(age(item, "created_at", now).text())),
        ("expires", age(item, "expires_at", now)),
    ];
    if !field(item, "delivered_at").is_empty() {
        facts.push(("fetched", age(item, "delivered_at", now).because(&field(item, "delivered_to"))));
    }
    if !field(item, "refetch_until").is_empty() {
        facts.push(("fetch again", age(item, "refetch_until", now).because("until then, by the same")));
    }
    if !field(item, "activated_at").is_empty() {
        facts.push(("activated", age(item, "activated_at", now)));
    }
    for (name, heading) in [("component_id", "component"), ("note", "note")] {
        if !field(item, name).is_empty() {
            facts.push((heading, word(item, name)));
        }
    }
    facts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_taken_from_whatever_was_copied() {
        for text in ["abcdefghijklmnop", " rollcall_pkg1_abcdefghijklmnop_hushhush\n"] {
            assert_eq!(checked(text).unwrap(), "abcdefghijklmnop");
        }
        for text in ["../../etc/passwd", "rollcall_pkg1_short_hush", ""] {
            let failure = checked(text).unwrap_err();
            assert_eq!(failure.exit(), Exit::Usage);
            assert!(!failure.to_string().contains("hush"));
        }
    }
}

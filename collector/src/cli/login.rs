//! Logins: making a one-time code, exchanging it for a session that a context remembers, ending the session.
//!
//! A code needs not stand in argv, where every process of the host can read it: without one it is asked for, or
//! read from standard input. The session's credential goes into a private file and nowhere else.

use std::{
    io::{self, BufRead as _, IsTerminal as _, Read as _},
    path::PathBuf,
};

use clap::Args;
use reqwest::Method;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{
    Exit, Failure,
    client::Client,
    context,
    print::{self, Output, Screen, Word, age, field, word},
    reach::{Reach, Target, shown},
};
use crate::{
    config::{Config, Source, duration},
    logincode::{FILE, Kept, LIFE, LoginCode},
    statedir::outside,
};

pub(super) const CODE_EXAMPLES: &str = "\
Examples:
  rollcall-collector login-code                        on the collector's host, as its user or root
  rollcall-collector login-code --context prod         for a colleague, with a credential that administers";

pub(super) const LOGIN_EXAMPLES: &str = "\
Examples:
  rollcall-collector login --api https://rollcall.example.net          asks for the code
  rollcall-collector login --api https://rollcall.example.net < code
  rollcall-collector login --as prod --api https://rollcall.example.net --ca-file ca.pem";

pub(super) const LOGOUT_EXAMPLES: &str = "\
Examples:
  rollcall-collector logout
  rollcall-collector logout --context prod";

#[derive(Debug, Args)]
pub(super) struct LoginArgs {
    /// The code; better typed when asked for, as every process of this host can read arguments.
    code: Option<String>,
    /// Name of the context that remembers the session [default: the host's].
    #[arg(long = "as", value_name = "NAME")]
    name: Option<String>,
}

/// Makes a code on the collector's own host. It is good before the first start, and while the collector runs.
pub(super) fn make(config: &Config) -> Result<Zeroizing<String>, Failure> {
    let code = LoginCode::random().map_err(|error| Failure::new(Exit::Config, error.to_string()))?;
    let kept = Kept::of(&code, print::now());
    outside::leave(&config.state_dir, FILE, kept.print().as_bytes()).map_err(|error| {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        let hint = "run it as the collector's user or as root";
        Failure::new(Exit::Config, format!("the login code cannot be left for the collector: {error}{cause}; {hint}"))
    })?;
    Ok(code.reveal())
}

/// Tells a code that was made here.
pub(super) fn tell(screen: &mut Screen, code: &str, api: &str) -> Result<(), Failure> {
    match screen.output() {
        Output::Raw => screen.line(code)?,
        Output::Json => screen.json(&json!({ "code": code, "api": api }))?,
        Output::Table => {
            screen.line(code)?;
            screen.remark(&format!(
                "good once, within {}: rollcall-collector login --api {api}",
                duration::print(LIFE)
            ))?;
        }
    }
    Ok(())
}

/// Has a collector make a code.
pub(super) async fn ask_for_code(client: &Client, screen: &mut Screen) -> Result<(), Failure> {
    let made = client.call(Method::POST, "/api/admin/login/codes").send().await?.document;
    let now = print::now();
    screen.one(
        &made,
        |made| field(made, "code"),
        |made| vec![("code", word(made, "code")), ("ends", age(made, "expires_at", now))],
    )
}

/// Exchanges a code for a session, and remembers it.
pub(super) fn login(reach: &Reach, source: &dyn Source, screen: &mut Screen, args: LoginArgs) -> Result<(), Failure> {
    // The way there, without what proves who goes it.
    let open = Reach { credential_file: Some(PathBuf::from("/dev/null")), ..reach.clone() };
    let target = Target::find(&open, source)?;
    let place = context::Place::find(source, args.name.as_deref(), &target)?;
    let code = match args.code {
        Some(code) => Zeroizing::new(code),
        None => asked(screen)?,
    };
    let code: LoginCode = code.parse().map_err(|error: crate::logincode::NoCode| Failure::usage(error.to_string()))?;
    let client = Client::open_to_log_in(target.clone(), source)?;
    let body = json!({ "code": code.reveal().as_str() });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut session = runtime.block_on(client.call(Method::POST, "/api/admin/login").json(&body).send())?.document;
    let credential = match session.get_mut("credential").map(Value::take) {
        Some(Value::String(credential)) => Zeroizing::new(credential),
        Some(_) | None => return Err(client.strange("an answer without a credential")),
    };
    let (name, file) = match place.keep(source, &credential) {
        Ok(kept) => kept,
        Err(failure) => {
            let client = Client::open_with(target, source, credential)?;
            let ended = runtime.block_on(client.call(Method::POST, "/api/admin/logout").send());
            let session = if ended.is_ok() { "the session was ended again" } else { "the session goes on" };
            let message = format!("{failure}\n{session}; the code is used up: log in with a new one");
            return Err(Failure { message, ..failure });
        }
    };
    let now = print::now();
    if let Value::Object(session) = &mut session {
        session.remove("credential");
        session.insert("api".into(), shown(&target.api).into());
        session.insert("context".into(), name.into());
        session.insert("credential_file".into(), file.display().to_string().into());
    }
    screen.one(
        &session,
        |session| field(session, "context"),
        |session| {
            vec![
                ("logged in to", word(session, "api")),
                ("as", Word::plain(format!("{} {}", field(session, "role"), field(session, "id")))),
                ("until", age(session, "expires_at", now)),
                ("context", word(session, "context")),
                ("credential", word(session, "credential_file")),
            ]
        },
    )
}

fn asked(screen: &mut Screen) -> Result<Zeroizing<String>, Failure> {
    const MOST: u64 = 4096;
    let mut text = Zeroizing::new(String::new());
    let stdin = io::stdin();
    let read = if stdin.is_terminal() {
        screen.remark("Login code (make one with `rollcall-collector login-code` on the collector's host):")?;
        stdin.lock().take(MOST).read_line(&mut text)
    } else {
        stdin.lock().take(MOST).read_to_string(&mut text)
    };
    read.map_err(|error| Failure::usage(format!("cannot read the code: {error}")))?;
    if text.trim().is_empty() {
        return Err(Failure::usage(
            "no code was given: `rollcall-collector login CODE`, or the code on standard input",
        ));
    }
    Ok(text)
}

/// Ends the session and forgets its credential.
pub(super) async fn logout(client: &Client, source: &dyn Source, screen: &mut Screen) -> Result<(), Failure> {
    client.call(Method::POST, "/api/admin/logout").send().await?;
    let gone = match client.credential_file() {
        Some(file) => context::forget_credential(source, file)?,
        None => true,
    };
    let kept = if gone { "" } else { "; its file stays where it is" };
    Ok(screen.line(&format!("logged out of {}{kept}", client.api()))?)
}

/// Where people reach the API that a configuration describes; `names` are those of its certificate.
pub(super) fn api_of(config: &Config, names: &[String]) -> String {
    let at = config.http_listen;
    if config.http_tls.is_some() {
        let named = names.iter().find(|name| !name.starts_with("*."));
        let host = match named {
            Some(name) if name.contains(':') => format!("[{name}]"),
            Some(name) => name.clone(),
            None => at.ip().to_string(),
        };
        return if at.port() == 443 { format!("https://{host}") } else { format!("https://{host}:{}", at.port()) };
    }
    match config.http_hosts.first() {
        Some(name) => format!("https://{name}"),
        None => format!("http://{at}"),
    }
}

//! `setup`: a few questions, a checked configuration, and the first login.
//!
//! It owns questions, defaults and what to do next. What is valid is decided by the very loader that `serve` uses,
//! over the proposed file; nothing is written before that passes. A file that somebody edited is left alone.

mod file;

use std::{
    ffi::OsString,
    io::{self, BufRead as _, IsTerminal as _},
    net::{IpAddr, UdpSocket},
    path::{Path, PathBuf},
};

use clap::Args;
use serde::Deserialize;

use super::{
    Exit, Failure, login,
    print::{Screen, Word},
};
use crate::config::{Config, DEFAULT_FILE, DEFAULT_HTTP, Flags, Source};

pub(super) const EXAMPLES: &str = "\
Examples:
  rollcall-collector setup                                                    asks
  rollcall-collector setup --yes --advertise collector.example.net            the API on loopback alone
  rollcall-collector setup --yes --tls-cert /etc/rollcall/collector/web.pem --tls-key /etc/rollcall/collector/web.key
  rollcall-collector setup --yes --reverse-proxy rollcall.example.net         a proxy on this host speaks HTTPS";

/// The port that sidecars dial.
const QUIC_PORT: u16 = 7411;
/// Where the API listens with a certificate.
const EVERYWHERE: &str = "[::]:7410";

/// Answers that are given beforehand.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct SetupArgs {
    /// Name of this collector [default: the host's].
    #[arg(long)]
    name: Option<String>,
    /// Addresses that sidecars dial, with commas between them; without a port, 7411 [default: this host's address].
    #[arg(long, value_name = "HOST[:PORT],…")]
    advertise: Option<String>,
    /// Trust domain of the deployment [default: rollcall.local].
    #[arg(long, value_name = "DOMAIN")]
    trust_domain: Option<String>,
    /// Address for the API [default: 127.0.0.1:7410; with a certificate [::]:7410].
    #[arg(long, value_name = "ADDR")]
    http_listen: Option<String>,
    /// Certificate for the API, the server's own first (PEM).
    #[arg(long, value_name = "FILE", requires = "tls_key", conflicts_with = "reverse_proxy")]
    tls_cert: Option<String>,
    /// Its private key (PEM, mode 0600, the collector's user's own).
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<String>,
    /// Name of a reverse proxy on this host that speaks HTTPS for the API.
    #[arg(long, value_name = "NAME")]
    reverse_proxy: Option<String>,
    /// Directory of keys, the registry and the login code [default: /var/lib/rollcall-collector].
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// The file to write [default: /etc/rollcall/collector.toml].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Ask nothing: take flags and defaults.
    #[arg(long)]
    yes: bool,
    /// Replace a file that somebody edited.
    #[arg(long)]
    force: bool,
}

/// What the file is to say.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Answers {
    name: Option<String>,
    trust_domain: String,
    advertise: Vec<String>,
    http_listen: String,
    tls: Option<(String, String)>,
    hosts: Vec<String>,
    state_dir: Option<PathBuf>,
}

/// Looks at the certificate that a configuration names: the names that it stands for, and what is doubtful.
pub(super) type LookAtCertificate<'a> = &'a dyn Fn(&Config) -> Result<(Vec<String>, Vec<String>), Failure>;

pub(super) fn run(
    source: &dyn Source,
    screen: &mut Screen,
    args: SetupArgs,
    certificate: LookAtCertificate<'_>,
) -> Result<(), Failure> {
    let path = args.config.clone().unwrap_or_else(|| DEFAULT_FILE.into());
    let path = std::path::absolute(&path)?;
    let asks = !args.yes;
    if asks && !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Err(Failure::usage("there is no terminal to ask at: add --yes to take flags and defaults"));
    }
    let mut answers = given(&args, Earlier::read(source, &path));
    let (config, names, doubts, text) = loop {
        if asks {
            answers = ask(screen, source, answers)?;
        }
        let text = file::text(&answers);
        match check(source, &path, &text, certificate) {
            Ok((config, (names, doubts))) => break (config, names, doubts, text),
            Err(failure) if asks => screen.remark(&format!("\nThat does not work yet:\n{failure}\n"))?,
            Err(failure) => return Err(failure),
        }
    };
    for doubt in &doubts {
        screen.remark(&format!("mind: {doubt}"))?;
    }
    let written = put(source, screen, &path, &text, (args.force, asks))?;
    let api = login::api_of(&config, &names);
    if written {
        screen.line(&format!("wrote {}", path.display()))?;
    } else {
        screen.line(&format!("{} says all of it already", path.display()))?;
    }
    next(screen, &config, &api, &path)
}

/// What an earlier run wrote; the rest of the file is not setup's.
#[derive(Debug, Default, Deserialize)]
struct Earlier {
    name: Option<String>,
    trust_domain: Option<String>,
    #[serde(default)]
    advertise: Vec<String>,
    http_listen: Option<String>,
    http_tls_cert: Option<String>,
    http_tls_key: Option<String>,
    #[serde(default)]
    http_hosts: Vec<String>,
    state_dir: Option<PathBuf>,
}

impl Earlier {
    fn read(source: &dyn Source, path: &Path) -> Self {
        // A file that cannot be read as a whole gives no defaults; whether it may be replaced is asked later.
        source.file(path).ok().and_then(|text| toml::from_str(&text).ok()).unwrap_or_default()
    }
}

/// Flags, then what the file says already, then what is usual.
fn given(args: &SetupArgs, earlier: Earlier) -> Answers {
    let meant = args.tls_cert.clone().zip(args.tls_key.clone());
    let had = earlier.http_tls_cert.zip(earlier.http_tls_key);
    let tls = meant.or_else(|| had.clone().filter(|_| args.reverse_proxy.is_none()));
    let hosts = match &args.reverse_proxy {
        Some(name) => vec![name.clone()],
        None if tls.is_some() => Vec::new(),
        None => earlier.http_hosts,
    };
    let usual = if tls.is_some() { EVERYWHERE } else { DEFAULT_HTTP };
    // Where it listened goes with how: a certificate that comes or goes begins anew.
    let listened = earlier.http_listen.filter(|_| tls.is_some() == had.is_some());
    let advertise = match &args.advertise {
        Some(text) => text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(with_port).collect(),
        None if !earlier.advertise.is_empty() => earlier.advertise,
        None => own_address().map(|ip| with_port(&ip.to_string())).into_iter().collect(),
    };
    let trust_domain = args.trust_domain.clone().or(earlier.trust_domain);
    Answers {
        name: args.name.clone().or(earlier.name),
        trust_domain: trust_domain.unwrap_or_else(|| "rollcall.local".into()),
        advertise,
        http_listen: args.http_listen.clone().or(listened).unwrap_or_else(|| usual.into()),
        tls,
        hosts,
        state_dir: args.state_dir.clone().or(earlier.state_dir),
    }
}

/// The address by which this host reaches others. No packet is sent: the kernel only looks up the way.
fn own_address() -> Option<IpAddr> {
    let towards = |from: &str, to: &str| {
        let socket = UdpSocket::bind(from).ok()?;
        socket.connect(to).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    let ip = towards("0.0.0.0:0", "192.0.2.1:9").or_else(|| towards("[::]:0", "[2001:db8::1]:9"))?;
    (!ip.is_loopback() && !ip.is_unspecified()).then_some(ip)
}

/// The address with the usual port, where it names none.
fn with_port(text: &str) -> String {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return std::net::SocketAddr::new(ip, QUIC_PORT).to_string();
    }
    if text.contains(':') { text.to_owned() } else { format!("{text}:{QUIC_PORT}") }
}

/// The proposed file in the place of the one that is there; the rest of the world as it is.
struct Proposed<'a> {
    world: &'a dyn Source,
    path: &'a Path,
    text: &'a str,
}

impl Source for Proposed<'_> {
    fn file(&self, path: &Path) -> io::Result<String> {
        if path == self.path { Ok(self.text.to_owned()) } else { self.world.file(path) }
    }

    fn files_in(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        self.world.files_in(dir)
    }

    fn variable(&self, name: &str) -> Option<OsString> {
        self.world.variable(name)
    }
}

type Checked = (Config, (Vec<String>, Vec<String>));

fn check(source: &dyn Source, path: &Path, text: &str, certificate: LookAtCertificate<'_>) -> Result<Checked, Failure> {
    let proposed = Proposed { world: source, path, text };
    let flags = Flags { file: Some(path.to_owned()), values: Vec::new() };
    let config = Config::load(&proposed, &flags).map_err(|errors| Failure::new(Exit::Config, errors.to_string()))?;
    let seen = certificate(&config)?;
    Ok((config, seen))
}

/// Writes the file where that loses nobody's work; whether there was anything to write.
fn put(
    source: &dyn Source,
    screen: &mut Screen,
    path: &Path,
    text: &str,
    (force, asks): (bool, bool),
) -> Result<bool, Failure> {
    match source.file(path) {
        Ok(old) if old == text => return Ok(false),
        Ok(old) => {
            let edited = file::is_edited(&old);
            screen.remark(&format!("{} changes:", path.display()))?;
            for line in file::difference(&old, text) {
                screen.remark(&format!("  {line}"))?;
            }
            if edited && !force {
                let message = format!(
                    "{} was edited and stays as it is: put these settings there yourself, choose another file with \
                     --config, or replace it with --force",
                    path.display()
                );
                return Err(Failure::new(Exit::Config, message));
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => {
            return Err(Failure::new(Exit::Config, format!("cannot read {}: {error}", path.display())));
        }
    }
    if asks && !agreed(screen, &format!("Write {}?", path.display()))? {
        return Err(Failure::new(Exit::Well, "nothing was written"));
    }
    file::write(path, text).map_err(|error| {
        Failure::new(Exit::Failed, format!("cannot write {}: {error}; run setup as root", path.display()))
    })?;
    Ok(true)
}

/// What to do now.
fn next(screen: &mut Screen, config: &Config, api: &str, path: &Path) -> Result<(), Failure> {
    let (udp, tcp) = (config.quic_listen.port(), config.http_listen.port());
    let fallback =
        if config.tcp_fallback { format!(", and TCP {udp} where UDP does not pass,") } else { String::new() };
    let inside = config.http_listen.ip().is_loopback();
    let web = if inside {
        format!("TCP {tcp} stays on this host")
    } else {
        format!("open TCP {tcp} to whoever uses the API")
    };
    let file = if path == Path::new(DEFAULT_FILE) { String::new() } else { format!(" --config {}", path.display()) };
    let start = if file.is_empty() {
        "systemctl enable --now rollcall-collector".to_owned()
    } else {
        format!("rollcall-collector serve{file}")
    };
    let addresses: Vec<String> = config.advertise.iter().map(ToString::to_string).collect();
    let dialed = if addresses.is_empty() { "nothing: tokens need --local".to_owned() } else { addresses.join(", ") };
    let mut facts = vec![
        ("API", Word::plain(api)),
        ("sidecars dial", Word::plain(dialed)),
        ("firewall", Word::plain(format!("open UDP {udp}{fallback} to the sidecars; {web}"))),
        ("start", Word::plain(start)),
    ];
    match login::make(config) {
        Ok(code) => {
            facts.push(("login code", Word::plain(code.as_str())));
            facts.push(("then, within 10m", Word::plain(format!("rollcall-collector login --api {api}"))));
            facts.push(("a new code", Word::plain(format!("rollcall-collector login-code{file}"))));
        }
        Err(failure) => facts.push(("no login code", Word::doubtful(failure.to_string()))),
    }
    Ok(screen.facts(facts)?)
}

fn ask(screen: &mut Screen, source: &dyn Source, old: Answers) -> Result<Answers, Failure> {
    let named = old.name.clone().unwrap_or_else(|| {
        let host = source.file(Path::new("/proc/sys/kernel/hostname")).unwrap_or_default();
        host.trim().split('.').next().unwrap_or_default().to_ascii_lowercase()
    });
    screen.remark("\nEnter takes what stands in brackets.\n")?;
    let name = line(screen, "Name of this collector (this host's own)", &named)?;
    let trust_domain = line(screen, "Trust domain: names the deployment, and stays for good", &old.trust_domain)?;
    let advertise = line(
        screen,
        "Addresses that sidecars dial (the one by which this host reaches others)",
        &old.advertise.join(", "),
    )?;
    screen.remark(
        "The API: 1 on this host alone, 2 with a certificate of your own, 3 behind a reverse proxy on this host",
    )?;
    let usual = if old.tls.is_some() {
        "2"
    } else if old.hosts.is_empty() {
        "1"
    } else {
        "3"
    };
    let which = loop {
        let answer = line(screen, "Which", usual)?;
        if matches!(answer.as_str(), "1" | "2" | "3") {
            break answer;
        }
        screen.remark(&format!("{answer:?} is none of them: 1, 2 or 3"))?;
    };
    let (tls, hosts, usual_listen) = match which.as_str() {
        "2" => {
            let (cert, key) = old.tls.clone().unwrap_or_else(|| {
                ("/etc/rollcall/collector/web.pem".into(), "/etc/rollcall/collector/web.key".into())
            });
            let cert = line(screen, "Certificate, the server's own first (PEM)", &cert)?;
            let key = line(screen, "Its private key (PEM, 0600, the collector's user's own)", &key)?;
            (Some((cert, key)), Vec::new(), EVERYWHERE)
        }
        "3" => {
            let name = old.hosts.first().cloned().unwrap_or_default();
            (None, vec![line(screen, "Name under which the proxy is called", &name)?], DEFAULT_HTTP)
        }
        _ => (None, Vec::new(), DEFAULT_HTTP),
    };
    let changed = tls.is_some() != old.tls.is_some();
    let http_listen = if changed { usual_listen } else { old.http_listen.as_str() };
    let http_listen = line(screen, "Address for the API", http_listen)?;
    let advertise = advertise.split(',').map(str::trim).filter(|item| !item.is_empty()).map(with_port).collect();
    Ok(Answers { name: Some(name), trust_domain, advertise, http_listen, tls, hosts, state_dir: old.state_dir })
}

/// One question; an end of the input ends the program.
fn line(screen: &mut Screen, question: &str, usual: &str) -> Result<String, Failure> {
    screen.remark(&format!("{question} [{usual}]:"))?;
    let mut text = String::new();
    let read = io::stdin().lock().read_line(&mut text);
    if read.map_err(|error| Failure::usage(format!("cannot read the answer: {error}")))? == 0 {
        return Err(Failure::usage("no answer: nothing was written"));
    }
    let text = text.trim();
    Ok(if text.is_empty() { usual.to_owned() } else { text.to_owned() })
}

fn agreed(screen: &mut Screen, question: &str) -> Result<bool, Failure> {
    let answer = line(screen, question, "yes")?;
    Ok(matches!(answer.to_ascii_lowercase().as_str(), "y" | "yes"))
}

#[cfg(test)]
mod tests;

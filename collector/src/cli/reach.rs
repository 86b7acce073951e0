//! Which collector a command talks to, and with which credential: flags, then the environment, then a
//! context, then the default.
//!
//! It owns the precedence, as a pure function of what was found. It refuses to send a credential where it
//! was not meant to go: what a context keeps is used with that context's collector alone, and the bootstrap
//! credential of this host never leaves it. Where nothing is said, the collector of this host says itself
//! where it listens, to those who may read its state directory: they are administrators over its socket
//! without any credential.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};
use reqwest::Url;

use super::{Exit, Failure, context::Contexts};
use crate::{
    collector::{ENDPOINTS_FILE, Endpoints, Scheme},
    config::{self, CREDENTIAL_FILE, DEFAULT_HTTP, Source},
};

const HEADING: &str = "Reaching the collector";

/// Flags that every operator's command takes, before or after its name.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct Reach {
    /// The collector's API, or unix:/PATH of its administrators' socket [env: ROLLCALL_API] [default: where the
    /// collector of this host says that it listens, else http://127.0.0.1:7410].
    #[arg(long, value_name = "URL", global = true, help_heading = HEADING)]
    pub(super) api: Option<String>,
    /// File with the credential [env: ROLLCALL_CREDENTIAL_FILE]
    /// [default: admin.credential in the state directory].
    #[arg(long, value_name = "FILE", global = true, help_heading = HEADING)]
    pub(super) credential_file: Option<PathBuf>,
    /// File with the certificates that vouch for the collector's own, instead of the system's
    /// [env: ROLLCALL_CA_FILE].
    #[arg(long, value_name = "FILE", global = true, help_heading = HEADING)]
    pub(super) ca_file: Option<PathBuf>,
    /// One of the collectors that `context list` shows [env: ROLLCALL_CONTEXT].
    #[arg(long, value_name = "NAME", global = true, help_heading = HEADING)]
    pub(super) context: Option<String>,
    /// What to print: a table for people, the API's document as JSON or YAML, or the bare essence (ids, one a line).
    #[arg(long, short, value_enum, value_name = "FORMAT", global = true, help_heading = "Output")]
    pub(super) output: Option<Format>,
    /// Colours: on a terminal only (unless NO_COLOR is set), always or never.
    #[arg(long, value_enum, value_name = "WHEN", global = true, help_heading = "Output")]
    pub(super) color: Option<When>,
}

impl Reach {
    /// Whether any of them was given: `serve` takes none.
    pub(super) fn is_default(&self) -> bool {
        let Self { api, credential_file, ca_file, context, output, color } = self;
        let files = credential_file.is_none() && ca_file.is_none();
        api.is_none() && files && context.is_none() && output.is_none() && color.is_none()
    }
}

/// In which form to print.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people.
    #[default]
    Table,
    /// The API's document.
    Json,
    /// The API's document, as YAML.
    Yaml,
    /// Ids, one a line; for a new secret, the secret alone.
    Raw,
}

/// When to colour.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum When {
    /// On a terminal that wants it.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Who named a collector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    Flag(&'static str),
    Variable(&'static str),
    Context(String),
    /// What the collector of this host wrote down.
    Host(PathBuf),
    Default,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Flag(name) | Self::Variable(name) => f.write_str(name),
            Self::Context(name) => write!(f, "context {name}"),
            Self::Host(path) => write!(f, "{}", path.display()),
            Self::Default => f.write_str("the default"),
        }
    }
}

/// A collector, and how to talk to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// Scheme, host and port; or `unix:` and the path of a socket.
    pub(super) api: Url,
    /// Who named it.
    pub(super) origin: Origin,
    /// The credential's file; over the socket none is needed.
    pub(super) credential_file: Option<PathBuf>,
    /// Who named that.
    pub(super) credential_origin: Origin,
    /// Certificates to trust instead of the system's.
    pub(super) ca_file: Option<PathBuf>,
}

/// What was said about the way to a collector, from every side.
#[derive(Debug, Default)]
pub(super) struct Said<'a> {
    pub(super) flags: Reach,
    pub(super) api: Option<String>,
    pub(super) credential_file: Option<PathBuf>,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) context: Option<String>,
    pub(super) contexts: Option<&'a Contexts>,
    /// The credential that a collector on this host keeps for its administrator.
    pub(super) bootstrap: PathBuf,
    /// Where the collector of this host listens, and the file that says so.
    pub(super) host: Option<(Endpoints, PathBuf)>,
}

impl Target {
    /// Gathers what flags, environment and contexts say, and decides.
    pub(super) fn find(flags: &Reach, source: &dyn Source) -> Result<Self, Failure> {
        let variable = |name: &str| source.variable(name).filter(|value| !value.is_empty());
        let text = |name: &str| match variable(name).map(std::ffi::OsString::into_string) {
            None => Ok(None),
            Some(Ok(text)) => Ok(Some(text)),
            Some(Err(_)) => Err(Failure::usage(format!("{name} is not UTF-8"))),
        };
        let state_dir = variable("ROLLCALL_STATE_DIR").map_or_else(|| config::state_dir_of(source), PathBuf::from);
        let contexts = Contexts::load(source)?;
        let endpoints = state_dir.join(ENDPOINTS_FILE);
        // Whoever may not read it is told of it by nobody, and needs a credential anyway.
        let host = source.file(&endpoints).ok().and_then(|text| serde_json::from_str(&text).ok());
        Self::resolve(&Said {
            host: host.map(|at| (at, endpoints)),
            flags: flags.clone(),
            api: text("ROLLCALL_API")?,
            credential_file: variable("ROLLCALL_CREDENTIAL_FILE").map(PathBuf::from),
            ca_file: variable("ROLLCALL_CA_FILE").map(PathBuf::from),
            context: text("ROLLCALL_CONTEXT")?,
            contexts: Some(&contexts),
            bootstrap: state_dir.join(CREDENTIAL_FILE),
        })
    }

    /// The precedence. A context that a flag names is a flag's word and comes before the environment.
    pub(super) fn resolve(said: &Said<'_>) -> Result<Self, Failure> {
        let none = Contexts::default();
        let contexts = said.contexts.unwrap_or(&none);
        let by_flag = said.flags.context.as_deref().map(|name| contexts.named(name, "--context")).transpose()?;
        let by_variable = match (&by_flag, &said.context) {
            (None, Some(name)) => Some(contexts.named(name, "ROLLCALL_CONTEXT")?),
            (_, _) => None,
        };
        let current = contexts.current();
        let chosen = by_flag.or(by_variable).or(current);
        let of_context = || chosen.map(|(name, context)| (context.api.clone(), Origin::Context(name.to_owned())));
        let flag = said.flags.api.clone().map(|api| (api, Origin::Flag("--api")));
        let variable = said.api.clone().map(|api| (api, Origin::Variable("ROLLCALL_API")));
        let (api, origin) = match by_flag {
            Some(_) => flag.or_else(of_context),
            None => flag.or(variable).or_else(of_context),
        }
        .or_else(|| said.host.as_ref().map(|(at, file)| (address_of(at), Origin::Host(file.clone()))))
        .unwrap_or_else(|| (format!("http://{DEFAULT_HTTP}"), Origin::Default));
        let api = base(&api, &origin)?;
        // A context's credential belongs to its collector, whoever named that one.
        let context = chosen.filter(|(_, context)| context.api.parse::<Url>().is_ok_and(|its| its == api));
        let kept = |pick: fn(&super::context::Context) -> Option<&Path>| {
            context.and_then(|(name, context)| Some((pick(context)?.to_owned(), Origin::Context(name.to_owned()))))
        };
        let pick = |flag: Option<(PathBuf, Origin)>, variable: Option<(PathBuf, Origin)>, kept| match by_flag {
            Some(_) => flag.or(kept).or(variable),
            None => flag.or(variable).or(kept),
        };
        let given = |path: &Option<PathBuf>, origin: Origin| path.clone().map(|path| (path, origin));
        let credential = pick(
            given(&said.flags.credential_file, Origin::Flag("--credential-file")),
            given(&said.credential_file, Origin::Variable("ROLLCALL_CREDENTIAL_FILE")),
            kept(|context| context.credential_file.as_deref()),
        );
        let ca_file = pick(
            given(&said.flags.ca_file, Origin::Flag("--ca-file")),
            given(&said.ca_file, Origin::Variable("ROLLCALL_CA_FILE")),
            kept(|context| context.ca_file.as_deref()),
        );
        let (credential_file, credential_origin) = match credential {
            Some((path, origin)) => (Some(path), origin),
            // There one is whoever the kernel says.
            None if is_socket(&api) => (None, origin.clone()),
            None if is_loopback(&api) => (Some(said.bootstrap.clone()), Origin::Default),
            None => {
                let message = format!(
                    "no credential is named for the collector at {} ({origin}): name its file with --credential-file \
                     or ROLLCALL_CREDENTIAL_FILE, or keep both in a context: `context add NAME --api URL \
                     --credential-file FILE`",
                    shown(&api)
                );
                return Err(Failure::new(Exit::Config, message));
            }
        };
        Ok(Self { api, origin, credential_file, credential_origin, ca_file: ca_file.map(|(path, _)| path) })
    }
}

impl Target {
    /// The administrators' socket, where that is the way.
    pub(super) fn socket(&self) -> Option<PathBuf> {
        if !is_socket(&self.api) {
            return None;
        }
        // Only addresses of files have their escapes undone by the parser.
        let mut file: Url = "file:///".parse().ok()?;
        file.set_path(self.api.path());
        file.to_file_path().ok()
    }

    /// What the paths of requests are put behind; a socket is on this host.
    pub(super) fn root(&self) -> Url {
        let mut root = self.api.clone();
        if is_socket(&self.api)
            && let Ok(local) = "http://localhost".parse()
        {
            root = local;
        }
        root
    }
}

/// Where a collector of this host is best reached: over its socket, where no certificate and no credential is asked.
fn address_of(at: &Endpoints) -> String {
    if let Some(socket) = &at.socket {
        return format!("unix:{}", socket.display());
    }
    let mut http = at.http;
    if http.ip().is_unspecified() {
        let loopback = if http.is_ipv4() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { IpAddr::V6(Ipv6Addr::LOCALHOST) };
        http.set_ip(loopback);
    }
    let scheme = match at.scheme {
        Scheme::Http => "http",
        Scheme::Https => "https",
    };
    format!("{scheme}://{http}")
}

fn is_socket(api: &Url) -> bool {
    api.scheme() == "unix"
}

/// The address as people write it.
pub(super) fn shown(api: &Url) -> &str {
    api.as_str().trim_end_matches('/')
}

/// Reads an API's address: scheme, host and port.
pub(super) fn base(text: &str, origin: &Origin) -> Result<Url, Failure> {
    let named = match origin {
        Origin::Flag(_) | Origin::Default => "--api (or ROLLCALL_API)".to_owned(),
        Origin::Variable(name) => (*name).to_owned(),
        Origin::Context(name) => format!("the API of context {name}"),
        Origin::Host(path) => format!("the collector's own {}", path.display()),
    };
    let bad = |why: &str| Failure::usage(format!("{named} {text:?} {why}: write http://127.0.0.1:7410"));
    // Said before the address is shown: it may hold a secret.
    let url: Url = text.parse().map_err(|_| bad("is no URL"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Failure::usage(format!("{named} takes no credential: that belongs into a file of its own")));
    }
    if is_socket(&url) {
        let plain = url.query().is_none() && url.fragment().is_none() && !url.has_host();
        let is_file = url.path().len() > 1 && url.path().starts_with('/') && !url.path().ends_with('/');
        return if plain && is_file {
            Ok(url)
        } else {
            let why = "names no socket: write unix:/run/rollcall-collector/admin.sock";
            Err(Failure::usage(format!("{named} {text:?} {why}")))
        };
    }
    if !matches!(url.scheme(), "http" | "https") {
        return Err(bad("must begin with http://, https:// or unix:/"));
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err(bad("must be scheme, host and port alone"));
    }
    if url.scheme() == "http" && !is_loopback(&url) {
        let why = "is on another host, and the credential would travel unencrypted; use https://, or open an SSH \
                   tunnel to it";
        return Err(bad(why));
    }
    Ok(url)
}

/// Whether an address is on this host, whoever resolves it.
fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
        current = "here"
        [contexts.here]
        api = "http://127.0.0.1:7000"
        [contexts.prod]
        api = "https://rollcall.example.net"
        credential_file = "/c/prod"
        ca_file = "/ca/prod"
        [contexts.bare]
        api = "https://bare.example.net"
    "#;

    fn resolved(change: impl FnOnce(&mut Said<'_>)) -> Result<(String, String, String, String), Failure> {
        let contexts = Contexts::parse(FILE, Path::new("cli.toml")).unwrap();
        let mut said = Said { contexts: Some(&contexts), bootstrap: "/state/admin".into(), ..Said::default() };
        change(&mut said);
        let target = Target::resolve(&said)?;
        let ca = target.ca_file.map(|path| path.display().to_string()).unwrap_or_default();
        let credential = target.credential_file.map(|path| path.display().to_string()).unwrap_or_default();
        Ok((shown(&target.api).to_owned(), target.origin.to_string(), credential, ca))
    }

    fn of(api: &str, origin: &str, credential: &str, ca: &str) -> (String, String, String, String) {
        (api.into(), origin.into(), credential.into(), ca.into())
    }

    #[test]
    fn flags_come_before_the_environment_and_that_before_contexts() {
        let prod = "https://rollcall.example.net";
        assert_eq!(resolved(|_| ()).unwrap(), of("http://127.0.0.1:7000", "context here", "/state/admin", ""));
        let named = resolved(|said| said.context = Some("prod".into())).unwrap();
        assert_eq!(named, of(prod, "context prod", "/c/prod", "/ca/prod"));
        let both = resolved(|said| {
            said.context = Some("prod".into());
            said.api = Some("http://127.0.0.1:1".into());
        });
        assert_eq!(both.unwrap(), of("http://127.0.0.1:1", "ROLLCALL_API", "/state/admin", ""));
        // A context on the command line is a flag's word.
        let flag = resolved(|said| {
            said.flags.context = Some("prod".into());
            said.api = Some("http://127.0.0.1:1".into());
            said.credential_file = Some("/env".into());
        });
        assert_eq!(flag.unwrap(), of(prod, "context prod", "/c/prod", "/ca/prod"));
        let all = resolved(|said| {
            said.flags.context = Some("prod".into());
            said.flags.api = Some("http://localhost:2/".into());
            said.flags.credential_file = Some("/flag".into());
            said.api = Some("http://127.0.0.1:1".into());
        });
        assert_eq!(all.unwrap(), of("http://localhost:2", "--api", "/flag", ""));
        let none = resolved(|said| said.contexts = None).unwrap();
        assert_eq!(none, of("http://127.0.0.1:7410", "the default", "/state/admin", ""));
    }

    #[test]
    fn a_credential_goes_only_where_it_was_meant_to_go() {
        // The address is another one: neither the context's credential nor this host's own goes there.
        let elsewhere = resolved(|said| {
            said.flags.context = Some("prod".into());
            said.flags.api = Some("https://evil.example.net".into());
        });
        let failure = elsewhere.unwrap_err();
        assert_eq!(failure.exit(), Exit::Config);
        assert!(failure.to_string().contains("no credential is named for the collector at https://evil"), "{failure}");
        // The same address, however it was named, is the context's collector.
        let same = resolved(|said| {
            said.flags.context = Some("prod".into());
            said.flags.api = Some("https://rollcall.example.net/".into());
        });
        assert_eq!(same.unwrap(), of("https://rollcall.example.net", "--api", "/c/prod", "/ca/prod"));
        assert!(resolved(|said| said.flags.context = Some("bare".into())).is_err());
        let given = resolved(|said| {
            said.flags.context = Some("bare".into());
            said.credential_file = Some("/env".into());
        });
        assert_eq!(given.unwrap().2, "/env");
    }

    #[test]
    fn the_collector_of_this_host_says_where_it_is_where_nobody_else_does() {
        let at = |socket: Option<&str>, http: &str, scheme| {
            let at = Endpoints {
                http: http.parse().unwrap(),
                quic: "[::]:7411".parse().unwrap(),
                scheme,
                socket: socket.map(PathBuf::from),
            };
            Some((at, PathBuf::from("/state/endpoints.json")))
        };
        let found = |host: Option<(Endpoints, PathBuf)>| {
            resolved(|said| (said.contexts, said.host) = (None, host.clone())).unwrap()
        };
        let file = "/state/endpoints.json";
        let socket = found(at(Some("/run/x/admin.sock"), "127.0.0.1:1", Scheme::Https));
        assert_eq!(socket, of("unix:/run/x/admin.sock", file, "", ""));
        let plain = found(at(None, "127.0.0.1:7999", Scheme::Http));
        assert_eq!(plain, of("http://127.0.0.1:7999", file, "/state/admin", ""));
        let wide = found(at(None, "[::]:7410", Scheme::Https));
        assert_eq!(wide, of("https://[::1]:7410", file, "/state/admin", ""));
        // A word of anybody's comes first, and a credential that is named is shown over the socket too.
        let named = resolved(|said| said.host = at(Some("/run/x/admin.sock"), "127.0.0.1:1", Scheme::Http));
        assert_eq!(named.unwrap().0, "http://127.0.0.1:7000");
        let shown = resolved(|said| {
            (said.contexts, said.host) = (None, at(Some("/s"), "127.0.0.1:1", Scheme::Http));
            said.flags.credential_file = Some("/flag".into());
        });
        assert_eq!(shown.unwrap(), of("unix:/s", file, "/flag", ""));
    }

    #[test]
    fn a_socket_is_a_path() {
        let socket = |api: &str| {
            let target = resolved(|said| said.flags.api = Some(api.into()));
            assert_eq!(target.as_ref().unwrap().2, "", "no credential is needed");
            let target = Target {
                api: base(api, &Origin::Flag("--api")).unwrap(),
                origin: Origin::Default,
                credential_file: None,
                credential_origin: Origin::Default,
                ca_file: None,
            };
            (target.socket().unwrap(), target.root().to_string())
        };
        for path in ["/run/rollcall-collector/admin.sock", "/tmp/a b/ä%20.sock"] {
            let written = path.replace('%', "%25");
            assert_eq!(socket(&format!("unix:{written}")), (PathBuf::from(path), "http://localhost/".into()));
        }
        for bad in
            ["unix:", "unix:/", "unix:admin.sock", "unix://host/admin.sock", "unix:/a?b", "unix:/a#b", "unix:/a/"]
        {
            let failure = base(bad, &Origin::Flag("--api")).unwrap_err();
            assert!(failure.to_string().contains("names no socket"), "{bad}: {failure}");
        }
    }

    #[test]
    fn an_unknown_context_names_the_known_ones() {
        let failure = resolved(|said| said.context = Some("test".into())).unwrap_err();
        assert_eq!(failure.exit(), Exit::Usage);
        assert!(failure.to_string().contains("ROLLCALL_CONTEXT: there is no context \"test\""), "{failure}");
        assert!(failure.to_string().contains("bare, here, prod"), "{failure}");
    }

    #[test]
    fn the_api_is_a_scheme_a_host_and_a_port() {
        let flag = Origin::Flag("--api");
        for good in ["http://127.0.0.1:7410", "http://localhost:7410/", "http://[::1]:1", "https://c.example.net"] {
            assert!(base(good, &flag).is_ok(), "{good}");
        }
        for (bad, word) in [
            ("127.0.0.1:7410", "no URL"),
            ("ftp://127.0.0.1:7410", "begin with http://"),
            ("http://127.0.0.1:7410/api", "alone"),
            ("http://user:hush@127.0.0.1:7410", "no credential"),
            ("https://user:hush@collector.example.net", "no credential"),
            ("http://collector.example.net:7410", "SSH tunnel"),
            ("http://127.0.0.1.evil.example", "SSH tunnel"),
        ] {
            let failure = base(bad, &flag).unwrap_err();
            assert_eq!(failure.exit(), Exit::Usage);
            let text = failure.to_string();
            assert!(text.contains(word), "{bad}: {text}");
            assert!(!text.contains("hush"), "{text}");
        }
    }
}

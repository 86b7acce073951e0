//! Contexts: the collectors that an operator works with, by name.
//!
//! It owns `cli.toml` under `$XDG_CONFIG_HOME/rollcall` and the `context` commands. The file says where a
//! collector is and where the credential lies; a secret is never in it. Whoever can write it can send a
//! credential elsewhere, so it belongs to its owner alone.

pub(super) mod keep;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::json;

use super::{
    Exit, Failure,
    list::{self, Column, Flags, Sheet},
    print::{Screen, Word, field, word},
    reach::{Origin, Reach, Target, base, shown},
};
use crate::config::Source;

/// Contexts that one file may hold.
const MAX_CONTEXTS: usize = 1_000;

/// One collector.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Context {
    /// Scheme, host and port.
    pub(super) api: String,
    /// The credential's file.
    #[serde(default)]
    pub(super) credential_file: Option<PathBuf>,
    /// Certificates to trust instead of the system's.
    #[serde(default)]
    pub(super) ca_file: Option<PathBuf>,
}

/// All of them, and which one is meant where none is named.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Contexts {
    #[serde(default)]
    current: Option<String>,
    #[serde(default)]
    contexts: BTreeMap<String, Context>,
}

impl Contexts {
    /// Reads the file, if there is one.
    pub(super) fn load(source: &dyn Source) -> Result<Self, Failure> {
        let Some(path) = path(source) else { return Ok(Self::default()) };
        match source.file(&path) {
            Ok(text) => Self::parse(&text, &path),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => {
                Err(Failure::new(Exit::Config, format!("cannot read the contexts in {}: {error}", path.display())))
            }
        }
    }

    /// Reads the file's text.
    pub(super) fn parse(text: &str, path: &Path) -> Result<Self, Failure> {
        let bad = |why: String| Failure::new(Exit::Config, format!("{}: {why}", path.display()));
        let contexts: Self = toml::from_str(text).map_err(|error| bad(error.to_string()))?;
        for (name, context) in &contexts.contexts {
            checked(name).map_err(&bad)?;
            base(&context.api, &Origin::Context(name.clone())).map_err(|failure| bad(failure.to_string()))?;
        }
        match &contexts.current {
            Some(name) if !contexts.contexts.contains_key(name) => {
                Err(bad(format!("current = {name:?} names no context: choose one with `context use NAME`")))
            }
            Some(_) | None => Ok(contexts),
        }
    }

    /// The file's text.
    fn print(&self) -> Result<String, Failure> {
        let mut text =
            "# Collectors for `rollcall-collector --context NAME`. Kept by `rollcall-collector context`.\n".to_owned();
        if let Some(current) = &self.current {
            text.push_str(&format!("current = {}\n", quoted(current)?));
        }
        for (name, context) in &self.contexts {
            text.push_str(&format!("\n[contexts.{}]\napi = {}\n", quoted(name)?, quoted(&context.api)?));
            for (key, path) in [("credential_file", &context.credential_file), ("ca_file", &context.ca_file)] {
                if let Some(path) = path {
                    let path = path.to_str().ok_or_else(|| {
                        Failure::usage(format!("{} is not UTF-8: cli.toml cannot name it", path.display()))
                    })?;
                    text.push_str(&format!("{key} = {}\n", quoted(path)?));
                }
            }
        }
        Ok(text)
    }

    /// The context of a name, which must exist.
    pub(super) fn named<'a>(&'a self, name: &str, by: &str) -> Result<(&'a str, &'a Context), Failure> {
        self.contexts.get_key_value(name).map(|(name, context)| (name.as_str(), context)).ok_or_else(|| {
            let known: Vec<&str> = self.contexts.keys().map(String::as_str).collect();
            let known = match known.as_slice() {
                [] => "none is known yet: make it with `context add NAME --api URL`".to_owned(),
                known => format!("known are {}", known.join(", ")),
            };
            Failure::usage(format!("{by}: there is no context {name:?}; {known}"))
        })
    }

    /// The one that is meant where none is named.
    pub(super) fn current(&self) -> Option<(&str, &Context)> {
        let (name, context) = self.contexts.get_key_value(self.current.as_deref()?)?;
        Some((name, context))
    }
}

/// Where the file is, if there is a home for it.
fn path(source: &dyn Source) -> Option<PathBuf> {
    let variable = |name| source.variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = variable("XDG_CONFIG_HOME").or_else(|| Some(variable("HOME")?.join(".config")))?;
    Some(home.join("rollcall/cli.toml"))
}

/// A name that is safe in a file name and on a command line.
fn checked(name: &str) -> Result<(), String> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let begins = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if (1..=64).contains(&name.len()) && begins && name.chars().all(good) {
        return Ok(());
    }
    let shown: String = name.chars().take(80).collect();
    Err(format!("{shown:?} cannot name a context: use up to 64 letters, digits, '.', '_' and '-'"))
}

/// A TOML string. JSON's escapes are TOML's, except for DEL.
fn quoted(text: &str) -> Result<String, Failure> {
    let bad = || Failure::usage(format!("{text:?} has control characters"));
    if text.chars().any(char::is_control) {
        return Err(bad());
    }
    serde_json::to_string(text).map_err(|_| bad())
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Remember a collector under a name.
    #[command(after_help = ADD_EXAMPLES)]
    Add(AddArgs),
    /// List the collectors that are remembered.
    #[command(alias = "ls", after_help = "Example:\n  rollcall-collector context list")]
    List {
        #[command(flatten)]
        flags: Flags,
    },
    /// Talk to this one where none is named.
    #[command(after_help = "Example:\n  rollcall-collector context use prod")]
    Use {
        /// The context.
        name: String,
    },
    /// Forget one; files that it named stay.
    #[command(alias = "rm", after_help = "Example:\n  rollcall-collector context remove lab")]
    Remove {
        /// The context.
        name: String,
    },
    /// Show which collector and credential commands would use now, and who said so.
    #[command(
        after_help = "Examples:\n  rollcall-collector context show\n  rollcall-collector context show --context prod"
    )]
    Show,
}

const ADD_EXAMPLES: &str = "\
Examples:
  rollcall-collector context add lab --api http://127.0.0.1:7410 --credential-file ~/lab.credential
  rollcall-collector context add prod --api https://rollcall.example.net --ca-file ca.pem --credential-stdin --use
  rollcall-collector --context prod services list";

#[derive(Debug, Args)]
pub(super) struct AddArgs {
    /// What to call it.
    name: String,
    /// Read the credential from standard input and keep it in a file of its own (mode 0600).
    #[arg(long, conflicts_with = "credential_file")]
    credential_stdin: bool,
    /// Talk to it from now on where no other is named.
    #[arg(long = "use")]
    make_current: bool,
    /// Replace one of the same name.
    #[arg(long)]
    replace: bool,
}

pub(super) fn run(reach: &Reach, source: &dyn Source, screen: &mut Screen, command: Command) -> Result<(), Failure> {
    match command {
        Command::Add(args) => add(reach, source, screen, args),
        Command::List { flags } => list(source, screen, &flags),
        Command::Use { name } => {
            change(source, |contexts| {
                contexts.current = Some(contexts.named(&name, "context use")?.0.to_owned());
                Ok(())
            })?;
            Ok(screen.line(&format!("commands talk to {name} now"))?)
        }
        Command::Remove { name } => {
            change(source, |contexts| {
                contexts.named(&name, "context remove")?;
                contexts.contexts.remove(&name);
                contexts.current = contexts.current.take().filter(|current| *current != name);
                Ok(())
            })?;
            Ok(screen.line(&format!("{name} is forgotten"))?)
        }
        Command::Show => show(reach, source, screen),
    }
}

fn nowhere() -> Failure {
    Failure::new(Exit::Config, "there is no place for contexts: set HOME or XDG_CONFIG_HOME to an absolute path")
}

fn change(source: &dyn Source, with: impl FnOnce(&mut Contexts) -> Result<(), Failure>) -> Result<PathBuf, Failure> {
    let path = path(source).ok_or_else(nowhere)?;
    let mut contexts = Contexts::load(source)?;
    with(&mut contexts)?;
    keep::file(&path, &contexts.print()?)?;
    Ok(path)
}

fn add(reach: &Reach, source: &dyn Source, screen: &mut Screen, args: AddArgs) -> Result<(), Failure> {
    let AddArgs { name, credential_stdin, make_current, replace } = args;
    checked(&name).map_err(Failure::usage)?;
    let api = reach.api.clone().ok_or_else(|| {
        Failure::usage(format!("say where it is: `context add {name} --api https://rollcall.example.net`"))
    })?;
    let api = base(&api, &Origin::Flag("--api"))?;
    let absolute = |path: &Option<PathBuf>| match path {
        Some(path) => std::path::absolute(path).map(Some),
        None => Ok(None),
    };
    let mut credential_file = absolute(&reach.credential_file)?;
    if let Some(path) = &credential_file {
        super::client::credential(source, path)?;
    }
    let ca_file = absolute(&reach.ca_file)?;
    let home = path(source).and_then(|path| path.parent().map(Path::to_owned));
    let path = change(source, |contexts| {
        if contexts.contexts.contains_key(&name) && !replace {
            return Err(Failure::usage(format!("{name} exists: add --replace, or choose another name")));
        }
        if contexts.contexts.len() >= MAX_CONTEXTS {
            return Err(Failure::usage(format!("there are {MAX_CONTEXTS} contexts already: remove some")));
        }
        if let (true, Some(home)) = (credential_stdin, home) {
            let text = super::client::credential_text(&keep::line_of_stdin()?, "standard input")?;
            let path = home.join(format!("{name}.credential"));
            keep::file(&path, &format!("{}\n", text.as_str()))?;
            credential_file = Some(path);
        }
        let context = Context { api: shown(&api).to_owned(), credential_file, ca_file };
        contexts.contexts.insert(name.clone(), context);
        if make_current || contexts.contexts.len() == 1 {
            contexts.current = Some(name.clone());
        }
        Ok(())
    })?;
    screen.line(&format!("{name} is remembered in {}; use it with --context {name}", path.display()))?;
    Ok(())
}

/// Where a session will be kept: decided before there is one, as what begins it can be used once only.
#[derive(Debug)]
pub(super) struct Place {
    name: String,
    file: PathBuf,
    context: Context,
}

impl Place {
    /// Under the name that is given, or the one that the collector has already, or its host's.
    pub(super) fn find(source: &dyn Source, name: Option<&str>, target: &Target) -> Result<Self, Failure> {
        let known = Contexts::load(source)?;
        let same = |context: &Context| context.api.parse::<reqwest::Url>().is_ok_and(|api| api == target.api);
        let by_api = || known.contexts.iter().find(|(_, context)| same(context)).map(|(name, _)| name.clone());
        let host = target.api.host_str().unwrap_or_default();
        let of_host =
            if target.api.scheme() != "https" { "local".to_owned() } else { host.replace([':', '[', ']'], "-") };
        let name = name.map(str::to_owned).or_else(by_api).unwrap_or(of_host);
        checked(&name).map_err(|why| Failure::usage(format!("{why}; choose another with --as")))?;
        if known.contexts.get(&name).is_some_and(|context| !same(context)) {
            let message = format!("the context {name} is another collector: choose another name with --as");
            return Err(Failure::usage(message));
        }
        let ca_file = target.ca_file.as_ref().map(std::path::absolute).transpose()?;
        let home = path(source).and_then(|path| path.parent().map(Path::to_owned)).ok_or_else(nowhere)?;
        let file = home.join(format!("{name}.credential"));
        let context = Context { api: shown(&target.api).to_owned(), credential_file: Some(file.clone()), ca_file };
        let place = Self { name, file, context };
        // What cannot be written down then is said now.
        let mut contexts = known;
        place.enter(&mut contexts)?;
        contexts.print()?;
        keep::can_write_beside(&place.file)?;
        Ok(place)
    }

    fn enter(&self, contexts: &mut Contexts) -> Result<(), Failure> {
        if contexts.contexts.len() >= MAX_CONTEXTS && !contexts.contexts.contains_key(&self.name) {
            return Err(Failure::usage(format!("there are {MAX_CONTEXTS} contexts already: remove some")));
        }
        contexts.contexts.insert(self.name.clone(), self.context.clone());
        contexts.current = Some(self.name.clone());
        Ok(())
    }

    /// Keeps a credential there, in a private file, and talks to its collector from now on where no other is
    /// named.
    pub(super) fn keep(self, source: &dyn Source, credential: &str) -> Result<(String, PathBuf), Failure> {
        keep::file(&self.file, &format!("{credential}\n"))?;
        if let Err(failure) = change(source, |contexts| self.enter(contexts)) {
            // Nothing leads to it.
            let _ = std::fs::remove_file(&self.file);
            return Err(failure);
        }
        Ok((self.name, self.file))
    }
}

/// Removes a credential's file, where it is one of ours; whether it was.
pub(super) fn forget_credential(source: &dyn Source, file: &Path) -> Result<bool, Failure> {
    let home = path(source).and_then(|path| path.parent().map(Path::to_owned));
    if file.parent() != home.as_deref() {
        return Ok(false);
    }
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Failure::new(Exit::Failed, format!("cannot remove {}: {error}", file.display())));
        }
        Ok(()) | Err(_) => {}
    }
    change(source, |contexts| {
        for context in contexts.contexts.values_mut() {
            context.credential_file = context.credential_file.take().filter(|named| named != file);
        }
        Ok(())
    })?;
    Ok(true)
}

static SHEET: Sheet = Sheet {
    columns: &[
        Column::new("current", |item, _| Word::plain(field(item, "current"))),
        Column::new("name", |item, _| word(item, "name")),
        Column::new("api", |item, _| word(item, "api")),
        Column::new("credential_file", |item, _| word(item, "credential_file")),
        Column::new("ca_file", |item, _| word(item, "ca_file")),
    ],
    id: |item| field(item, "name"),
    told: &["api"],
    none: "no context yet: make one with `context add NAME --api URL`",
    max: 1_000,
};

fn list(source: &dyn Source, screen: &mut Screen, flags: &Flags) -> Result<(), Failure> {
    let contexts = Contexts::load(source)?;
    let current = contexts.current().map(|(name, _)| name.to_owned());
    let items = contexts.contexts.iter().map(|(name, context)| {
        json!({
            "current": if current.as_ref() == Some(name) { "*" } else { "" },
            "name": name,
            "api": context.api,
            "credential_file": context.credential_file,
            "ca_file": context.ca_file,
        })
    });
    list::print(screen, &list::Listed::whole(items.collect()), flags, &SHEET)
}

fn show(reach: &Reach, source: &dyn Source, screen: &mut Screen) -> Result<(), Failure> {
    let target = Target::find(reach, source)?;
    let document = json!({
        "api": shown(&target.api),
        "api_from": target.origin.to_string(),
        "credential_file": target.credential_file,
        "credential_from": target.credential_origin.to_string(),
        "ca_file": target.ca_file,
    });
    screen.one(
        &document,
        |_| shown(&target.api).to_owned(),
        |item| {
            vec![
                ("collector", word(item, "api").because(&field(item, "api_from"))),
                (
                    "credential",
                    if target.credential_file.is_none() {
                        Word::plain("none: over the socket the kernel says who you are")
                    } else {
                        word(item, "credential_file").because(&field(item, "credential_from"))
                    },
                ),
                (
                    "trusts",
                    if field(item, "ca_file").is_empty() {
                        Word::plain("what the system trusts")
                    } else {
                        word(item, "ca_file")
                    },
                ),
            ]
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let context = |api: &str, file: Option<&str>| Context {
            api: api.into(),
            credential_file: file.map(PathBuf::from),
            ca_file: None,
        };
        let contexts = Contexts {
            current: Some("prod.eu-1".into()),
            contexts: BTreeMap::from([
                ("prod.eu-1".into(), context("https://a.example", Some("/home/o'neil/\"x\" \\ y/c"))),
                ("lab".into(), context("http://127.0.0.1:1", None)),
            ]),
        };
        let text = contexts.print().unwrap();
        assert_eq!(Contexts::parse(&text, Path::new("f")).unwrap(), contexts);
    }

    #[test]
    fn a_broken_file_is_named() {
        for (text, words) in [
            ("current = \"x\"", "names no context"),
            ("[contexts.a]\napi = \"nowhere\"", "is no URL"),
            ("[contexts.a]\napi = \"http://127.0.0.1\"\nsecret = \"x\"", "unknown field"),
            ("[contexts.\"../a\"]\napi = \"http://127.0.0.1\"", "cannot name a context"),
        ] {
            let failure = Contexts::parse(text, Path::new("/h/cli.toml")).unwrap_err();
            assert_eq!(failure.exit(), Exit::Config);
            let shown = failure.to_string();
            assert!(shown.starts_with("/h/cli.toml: ") && shown.contains(words), "{shown}");
        }
    }

    #[test]
    fn names_are_safe_as_file_names() {
        for good in ["a", "prod.eu-1", "A_b"] {
            assert!(checked(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "../a", "a/b", "-a", "a b", "a\n", &"a".repeat(65)] {
            assert!(checked(bad).is_err(), "{bad}");
        }
    }
}

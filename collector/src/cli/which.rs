//! Services as operators name them: `agent/edge-17`, `agent edge-17`, or the id alone where one kind has it.

use clap::{ArgMatches, Args, FromArgMatches, error::ErrorKind};
use rollcall_common::id::{NameError, ServiceId, ServiceKey};

use super::{Failure, client::Client, print::field};

/// Where services are.
pub(super) const ROOT: &str = "/api/admin/services";

/// One or two words on the command line.
#[derive(Debug, Clone, Args)]
struct Words {
    /// Kind and id, as in agent/edge-17 or agent edge-17; where a service exists, its id alone will do if one kind
    /// has it.
    #[arg(value_name = "SERVICE", required = true, num_args = 1..=2)]
    service: Vec<String>,
}

/// A service that exists.
#[derive(Debug, Clone)]
pub(super) struct Which {
    /// What was said.
    pub(super) name: Name,
}

/// A service of a kind, whether it exists or not.
#[derive(Debug, Clone)]
pub(super) struct Named {
    /// The service.
    pub(super) key: ServiceKey,
}

/// A service as an operator names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Name {
    /// Kind and id.
    Key(ServiceKey),
    /// The id alone.
    Id(ServiceId),
}

impl std::str::FromStr for Name {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.contains('/') { text.parse().map(Self::Key) } else { text.parse().map(Self::Id) }
    }
}

macro_rules! read_from_words {
    ($name:ident, $read:expr) => {
        // Nonsense is refused with the rest of the command line, before anything is asked.
        impl FromArgMatches for $name {
            fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
                let words = Words::from_arg_matches(matches)?;
                $read(&words.service).map_err(|why| clap::Error::raw(ErrorKind::ValueValidation, format!("{why}\n")))
            }

            fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
                *self = Self::from_arg_matches(matches)?;
                Ok(())
            }
        }

        impl Args for $name {
            fn augment_args(command: clap::Command) -> clap::Command {
                Words::augment_args(command)
            }

            fn augment_args_for_update(command: clap::Command) -> clap::Command {
                Words::augment_args_for_update(command)
            }
        }
    };
}

read_from_words!(Which, |words: &[String]| named(words).map(|name| Which { name }).map_err(|error| error.to_string()));
read_from_words!(Named, keyed);

fn keyed(words: &[String]) -> Result<Named, String> {
    match named(words).map_err(|error| error.to_string())? {
        Name::Key(key) => Ok(Named { key }),
        Name::Id(id) => Err(format!("say of what kind {id} is, as in agent/{id}")),
    }
}

fn named(words: &[String]) -> Result<Name, NameError> {
    words.join("/").parse()
}

impl Which {
    /// Reads one word or two.
    pub(super) fn of(words: &[String]) -> Result<Self, Failure> {
        named(words).map(|name| Self { name }).map_err(|error| Failure::usage(error.to_string()))
    }

    /// Where the API has it.
    pub(super) fn path(&self) -> String {
        match &self.name {
            Name::Key(key) => path(key),
            Name::Id(id) => format!("{ROOT}/{id}"),
        }
    }

    /// The service; its kind is looked up where the operator left it out.
    pub(super) async fn key(&self, client: &Client) -> Result<ServiceKey, Failure> {
        match &self.name {
            Name::Key(key) => Ok(key.clone()),
            Name::Id(id) => {
                let item = client.get(&format!("{ROOT}/{id}"), &[]).await?;
                key_of(&item).parse().map_err(|error: NameError| Failure::usage(error.to_string()))
            }
        }
    }
}

/// Where the API has a service.
pub(super) fn path(key: &ServiceKey) -> String {
    format!("{ROOT}/{}/{}", key.kind.plural(), key.id)
}

/// `kind/id` of an item.
pub(super) fn key_of(item: &serde_json::Value) -> String {
    format!("{}/{}", field(item, "kind"), field(item, "id"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn one_word_or_two() {
        let key = Name::Key("agent/x".parse().unwrap());
        for good in [&["agent/x"][..], &["agent", "x"], &["agents", "x"], &["agents/x"]] {
            assert_eq!(named(&words(good)).unwrap(), key, "{good:?}");
        }
        assert_eq!(named(&words(&["x"])).unwrap(), Name::Id("x".parse().unwrap()));
        for bad in [&["robot/x"][..], &["../x"], &["agent", "x/y"], &["agent/x", "y"], &["A"]] {
            assert!(named(&words(bad)).is_err(), "{bad:?}");
        }
        assert!(keyed(&words(&["x"])).unwrap_err().contains("as in agent/x"));
    }
}

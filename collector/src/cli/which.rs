//! Services as operators name them: `agent/edge-17`, `agent edge-17`, or the id alone where one kind has it.

use clap::Args;
use rollcall_common::id::{NameError, ServiceId, ServiceKey};

use super::{Failure, client::Client, print::field};

/// Where services are.
pub(super) const ROOT: &str = "/api/admin/services";

/// A service that exists.
#[derive(Debug, Clone, Args)]
pub(super) struct Which {
    /// Kind and id, as in agent/edge-17 or agent edge-17, or the id alone where one kind has it.
    #[arg(value_name = "SERVICE", required = true, num_args = 1..=2, value_parser = part)]
    service: Vec<String>,
}

/// A service of a kind, whether it exists or not.
#[derive(Debug, Clone, Args)]
pub(super) struct Named {
    /// Kind and id, as in agent/edge-17 or agent edge-17.
    #[arg(value_name = "SERVICE", required = true, num_args = 1..=2, value_parser = part)]
    service: Vec<String>,
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

impl Named {
    /// The service.
    pub(super) fn key(&self) -> Result<ServiceKey, Failure> {
        match named(&self.service)? {
            Name::Key(key) => Ok(key),
            Name::Id(id) => Err(Failure::usage(format!("say of what kind {id} is, as in agent/{id}"))),
        }
    }
}

impl Which {
    /// What was said.
    pub(super) fn name(&self) -> Result<Name, Failure> {
        named(&self.service)
    }

    /// Where the API has it.
    pub(super) fn path(&self) -> Result<String, Failure> {
        Ok(match self.name()? {
            Name::Key(key) => path(&key),
            Name::Id(id) => format!("{ROOT}/{id}"),
        })
    }

    /// The service; its kind is looked up where the operator left it out.
    pub(super) async fn key(&self, client: &Client) -> Result<ServiceKey, Failure> {
        match self.name()? {
            Name::Key(key) => Ok(key),
            Name::Id(id) => {
                let item = client.get(&format!("{ROOT}/{id}"), &[]).await?;
                key_of(&item).parse().map_err(|error: NameError| Failure::usage(error.to_string()))
            }
        }
    }
}

/// Each word alone is a kind, an id or both: nonsense is refused before anything is asked.
fn part(text: &str) -> Result<String, NameError> {
    text.parse::<Name>().map(|_| text.to_owned())
}

fn named(words: &[String]) -> Result<Name, Failure> {
    let text = words.join("/");
    text.parse().map_err(|error: NameError| Failure::usage(error.to_string()))
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
        assert!(Named { service: words(&["x"]) }.key().unwrap_err().to_string().contains("as in agent/x"));
    }
}

//! The rarer words of a list of services.

use clap::Args;
use rollcall_common::{id::ServiceKey, time::Timestamp};

use crate::config::duration;

#[derive(Debug, Clone, Default, Args)]
pub(super) struct MoreArgs {
    /// Only this service and what stands below it, as in poller/site-3.
    #[arg(long, value_name = "SERVICE")]
    subtree: Option<ServiceKey>,
    /// Only without a verdict for one of these reasons: collector_blind, brake, via_parent; several with commas.
    #[arg(long, value_name = "WORDS")]
    presence_reason: Option<String>,
    /// moving, stalled, unwatched: whether it gets on with its work; several with commas.
    #[arg(long, value_name = "WORDS")]
    progress: Option<String>,
    /// none, pending, applied, refused, unsupported: where the settings of its sidecar stand; several with commas.
    #[arg(long, value_name = "WORDS")]
    settings: Option<String>,
    /// Only those whose identity is used on this machine, as `services show` tells it.
    #[arg(long, value_name = "TAG")]
    machine: Option<String>,
    /// Only with a sidecar of this version.
    #[arg(long, value_name = "VERSION")]
    agent_version: Option<String>,
    /// Only with, or without, a place in the tree that expects no sidecar.
    #[arg(long, value_name = "BOOL")]
    placeholder: Option<bool>,
    /// Only those that are worked on now, or only the others.
    #[arg(long, value_name = "BOOL")]
    maintenance: Option<bool>,
    /// Only registered at or after this time, as in 2026-11-21T02:46:00Z, or so long ago at most, as in 7d.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    registered_after: Option<Moment>,
    /// Only registered before this time, or longer ago.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    registered_before: Option<Moment>,
    /// Only with a last heartbeat at or after this time, or so long ago at most.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    seen_after: Option<Moment>,
    /// Only with a last heartbeat before this time, or longer ago; or with none.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    seen_before: Option<Moment>,
    /// Only where the status is older than this time, or than so long: what is stuck.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    status_before: Option<Moment>,
    /// Only these members of the document, as in id,status,labels.site; with --output json or yaml.
    #[arg(long, value_name = "FIELDS")]
    pub(super) fields: Option<String>,
}

/// A time as people say it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Moment {
    /// A time of the day, as the collector reads it.
    At(String),
    /// So long ago, by this host's clock.
    Ago(std::time::Duration),
}

fn moment(text: &str) -> Result<Moment, String> {
    if text.parse::<jiff::Timestamp>().is_ok() {
        return Ok(Moment::At(text.to_owned()));
    }
    let ago = duration::parse(text).map(Moment::Ago);
    ago.map_err(|_| "write a time as in 2026-11-21T02:46:00Z, or how long ago as in 7d".into())
}

impl MoreArgs {
    /// As parts of a list's query.
    pub(super) fn query(self, now: Timestamp) -> impl Iterator<Item = (String, String)> {
        let at = |moment: Option<Moment>| {
            moment.map(|moment| match moment {
                Moment::At(text) => text,
                Moment::Ago(ago) => now.before(ago).to_string(),
            })
        };
        let given = [
            ("subtree", self.subtree.map(|key| key.to_string())),
            ("presence_reason", self.presence_reason),
            ("progress", self.progress),
            ("settings", self.settings),
            ("machine", self.machine),
            ("version", self.agent_version),
            ("placeholder", self.placeholder.map(|flag| flag.to_string())),
            ("maintenance", self.maintenance.map(|flag| flag.to_string())),
            ("registered_after", at(self.registered_after)),
            ("registered_before", at(self.registered_before)),
            ("seen_after", at(self.seen_after)),
            ("seen_before", at(self.seen_before)),
            ("status_before", at(self.status_before)),
            ("fields", self.fields),
        ];
        given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::fixture;

    /// What a list can be asked for can be asked for here.
    #[test]
    fn every_word_of_the_contract_has_its_flag() {
        let help = <super::super::super::Cli as clap::CommandFactory>::command();
        let list = help.find_subcommand("services").unwrap().find_subcommand("list").unwrap().clone();
        for name in fixture::filters_of_services() {
            let flag = match name {
                "q" => "query",
                "version" => "agent_version",
                // The CLI turns pages by itself.
                "limit" | "cursor" => continue,
                name => name,
            };
            assert!(list.get_arguments().any(|arg| arg.get_id() == flag), "{name} has no flag");
        }
    }

    #[test]
    fn times_are_said_either_way() {
        let now = Timestamp::from_secs(1_800_000_000);
        let args = MoreArgs {
            seen_before: Some(moment("2h").unwrap()),
            status_before: Some(moment("2026-11-21T02:46:00Z").unwrap()),
            ..MoreArgs::default()
        };
        let query: Vec<_> = args.query(now).map(|(name, value)| format!("{name}={value}")).collect();
        let ago = Timestamp::from_secs(1_800_000_000 - 7_200);
        assert_eq!(query, [format!("seen_before={ago}"), "status_before=2026-11-21T02:46:00Z".to_owned()]);
        assert!(moment("yesterday").is_err());
    }
}

//! What changes, as it changes: the feed on a screen or in a pipe.
//!
//! Comes back after every break and goes on where it was; where that is no longer possible it says so, once,
//! and begins anew.

use std::time::Duration;

use clap::Args;
use reqwest::Method;
use serde_json::Value;
use tokio::time::sleep;

use super::{
    Exit, Failure,
    client::Client,
    print::{Output, Screen, field, now},
};

/// Pause before it comes back.
const PAUSE: Duration = Duration::from_secs(2);
/// Longest frame, in bytes.
const MAX_FRAME: usize = 4 * 1024 * 1024;

#[derive(Debug, Args)]
pub(super) struct Watch {
    /// Only these types: service.status,service.presence, …
    #[arg(long = "type", value_name = "TYPES")]
    types: Option<String>,
    /// Only services of these kinds.
    #[arg(long, value_name = "KINDS")]
    kind: Option<String>,
    /// Only services that then have one of these statuses.
    #[arg(long, value_name = "STATUSES")]
    status: Option<String>,
    /// Only services with this id.
    #[arg(long)]
    id: Option<String>,
    /// Only services with this parent.
    #[arg(long)]
    parent: Option<String>,
    /// Only this service and all below it, as in poller/site-3.
    #[arg(long, value_name = "SERVICE")]
    subtree: Option<String>,
    /// Only services with this label; may be given several times.
    #[arg(long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// Begin behind this position, EPOCH-SEQ, instead of now.
    #[arg(long, value_name = "POSITION")]
    since: Option<String>,
}

impl Watch {
    fn query(&self) -> Vec<(String, String)> {
        let given = [
            ("type", &self.types),
            ("kind", &self.kind),
            ("status", &self.status),
            ("id", &self.id),
            ("parent", &self.parent),
            ("subtree", &self.subtree),
        ];
        let given = given.into_iter().filter_map(|(name, value)| Some((name, value.clone()?)));
        let labels = self.label.iter().map(|label| ("label", label.clone()));
        given.chain(labels).map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

/// What a frame says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Frame {
    event: String,
    id: Option<String>,
    data: String,
}

/// Cuts frames out of what arrives.
#[derive(Debug, Default)]
struct Cutter(Vec<u8>);

impl Cutter {
    fn take(&mut self, bytes: &[u8]) -> Vec<Frame> {
        self.0.extend_from_slice(bytes);
        let mut frames = Vec::new();
        while let Some(end) = self.0.windows(2).position(|two| two == b"\n\n") {
            let frame: Vec<u8> = self.0.drain(..end + 2).collect();
            let text = String::from_utf8_lossy(&frame);
            let mut cut = Frame::default();
            for line in text.lines() {
                match line.split_once(": ") {
                    Some(("event", value)) => value.clone_into(&mut cut.event),
                    Some(("id", value)) => cut.id = Some(value.to_owned()),
                    Some(("data", value)) => cut.data.push_str(value),
                    Some(_) | None => {}
                }
            }
            frames.push(cut);
        }
        if self.0.len() > MAX_FRAME {
            self.0.clear();
        }
        frames
    }
}

pub(super) async fn run(client: &Client, screen: &mut Screen, watch: Watch) -> Result<(), Failure> {
    let interrupted = tokio::signal::ctrl_c();
    let following = follow(client, screen, &watch);
    tokio::select! {
        interrupted = interrupted => Ok(interrupted?),
        ended = following => ended,
    }
}

async fn follow(client: &Client, screen: &mut Screen, watch: &Watch) -> Result<(), Failure> {
    let query = watch.query();
    let (mut at, mut begun) = (watch.since.clone(), false);
    loop {
        let mut query = query.clone();
        query.extend(at.clone().map(|at| ("since".to_owned(), at)));
        let outcome = once(client, screen, &query, &mut at, &mut begun).await;
        match outcome {
            Ok(()) => {}
            // A collector that restarts is what one watches for; a refusal will not change by itself.
            Err(failure) if failure.exit() == Exit::Unreachable && begun => note(screen, &failure.to_string())?,
            Err(failure) => return Err(failure),
        }
        screen.still_read()?;
        sleep(PAUSE).await;
    }
}

/// One connection, to its end.
async fn once(
    client: &Client,
    screen: &mut Screen,
    query: &[(String, String)],
    at: &mut Option<String>,
    begun: &mut bool,
) -> Result<(), Failure> {
    let mut stream = client.call(Method::GET, "/api/admin/feed").query(query).stream().await?;
    let mut cutter = Cutter::default();
    while let Some(bytes) = stream.chunk().await? {
        *begun = true;
        for frame in cutter.take(&bytes) {
            if let Some(id) = frame.id {
                *at = Some(id);
            }
            match frame.event.as_str() {
                "" | "hello" => {}
                "bye" => note(screen, "the collector is stopping")?,
                "dropped" => note(screen, &format!("dropped: {}", frame.data))?,
                "gone" => {
                    // Nothing is behind the position any more: the rest is in the lists.
                    *at = None;
                    note(screen, "changes were missed: `services list` has what is now; going on from here")?;
                }
                _ => show(screen, &frame.data)?,
            }
        }
    }
    Ok(())
}

/// What is no event goes past a program that reads events.
fn note(screen: &mut Screen, text: &str) -> Result<(), Failure> {
    if screen.output() == Output::Table {
        screen.line(&format!("{} {text}", now()))?;
    }
    Ok(())
}

fn show(screen: &mut Screen, data: &str) -> Result<(), Failure> {
    let Ok(event) = serde_json::from_str::<Value>(data) else { return Ok(()) };
    match screen.output() {
        Output::Json => screen.document_line(&event)?,
        Output::Raw => screen.line(&format!("{}/{}", field(&event, "kind"), field(&event, "id")))?,
        Output::Table => screen.line(&sentence(&event))?,
    }
    Ok(())
}

fn sentence(event: &Value) -> String {
    let what = field(event, "type");
    let what = what.strip_prefix("service.").unwrap_or(&what);
    let was = |name: &str| event.pointer(&format!("/previous/{name}")).and_then(Value::as_str);
    let moved = match was(what) {
        Some(before) => format!("{before} -> {}", field(event, what)),
        None => [field(event, "status"), field(event, "presence")].join(", "),
    };
    let mut line = format!("{} {}/{} {what} {moved}", field(event, "at"), field(event, "kind"), field(event, "id"));
    for (name, word) in [("reason", ""), ("actor", "by ")] {
        if let Some(text) = event.get(name).and_then(Value::as_str) {
            line.push_str(&format!(" ({word}{text})"));
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn frames_are_cut_wherever_the_pieces_end() {
        let text = ": alive\nid: 1-4\n\nid: 1-5\nevent: service.status\ndata: {\"a\":1}\n\n";
        for at in 0..text.len() {
            let mut cutter = Cutter::default();
            let (one, two) = text.split_at(at);
            let mut frames = cutter.take(one.as_bytes());
            frames.extend(cutter.take(two.as_bytes()));
            let wanted = Frame { event: "service.status".into(), id: Some("1-5".into()), data: "{\"a\":1}".into() };
            assert_eq!(frames.len(), 2, "{at}");
            assert_eq!((frames[0].id.as_deref(), &frames[1]), (Some("1-4"), &wanted), "{at}");
        }
    }

    #[test]
    fn an_event_is_a_sentence() {
        let event = json!({
            "at": "2026-11-21T00:00:00.000Z", "type": "service.presence", "kind": "agent", "id": "a",
            "status": "active", "presence": "lost", "previous": { "presence": "alive" }, "reason": "ttl",
        });
        assert_eq!(sentence(&event), "2026-11-21T00:00:00.000Z agent/a presence alive -> lost (ttl)");
    }
}

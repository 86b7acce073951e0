//! The audit trail over HTTP, newest first.

use std::collections::HashMap;

use rollcall_common::{
    id::{Seq, ServiceKey},
    lifecycle::Act,
};

use super::{
    access::Permission,
    error::{Problem, ProblemCode},
    extract::{Call, Query},
    filter::moment,
    openapi::words,
    page::{self, Page},
    routes::{Operation, Param, Routes},
    view::AuditView,
};
use crate::{
    registry::services::action,
    store::rows::{AuditEvent, AuditQuery},
};

/// Most pages of the store that one page of an answer is made of.
const MAX_LOOKS: usize = 8;
/// Longest text to look for, in bytes.
const MAX_TEXT: usize = 128;

const QUERY: &[Param] = &[
    Param::of::<words::Text>("object", "Only events of this object, as in `agent/edge-17`"),
    Param::of::<words::Text>(
        "action",
        "Only events of this action, as in `service.revoked`, or all that begin so, as in `service.`",
    ),
    Param::of::<words::Text>("actor", "Only what this actor did, as in `credential:ID`"),
    Param::of::<words::Text>("request_id", "Only what this request caused"),
    Param::of::<words::Search>(
        "text",
        "Only where object, actor or details hold this text, in any case: a page looks at the newest 8,000 events behind \
         its beginning and may be short, or empty, with a cursor to go on",
    ),
    Param::of::<words::Time>("since", "Only at or after this moment"),
    Param::of::<words::Time>("until", "Only before this moment"),
    Param::of::<words::Seq>("before", "Only events before this seq"),
    Param::of::<words::Limit>("limit", "Events of a page"),
    Param::of::<words::Cursor>("cursor", "Where the page begins"),
];

mod trail;

pub(super) fn routes(routes: Routes) -> Routes {
    let routes = routes.tag("audit", "What happened, by whom, and why").add(
        Operation::get("/api/admin/audit", Permission::Read, "list_audit")
            .scoped()
            .about("The audit trail, newest first")
            .query(QUERY)
            .answer::<Page<AuditView>>(200, "A page")
            .gives(&[ProblemCode::StoreUnavailable]),
        list,
    );
    trail::routes(routes)
}

async fn list(call: Call, query: Query) -> Result<axum::Json<Page<AuditView>>, Problem> {
    let wanted = read(&query.0)?;
    let text = query.get("text").map(text_of).transpose()?;
    let position = call.state.registry.read(|roster| roster.position());
    let (mut found, mut asked, mut looks) = (Vec::new(), wanted.clone(), 0);
    let mut lives = Lives { call: &call, ended: HashMap::new() };
    // One more than the page holds tells whether there is a next one.
    asked.limit = if text.is_some() { page::MAX_LIMIT } else { wanted.limit + 1 };
    let next = loop {
        let events = call.state.store.audit(&asked).await?;
        let (whole, last) = (events.len() < asked.limit, events.last().map(|event| event.seq));
        let holds = |event: &AuditEvent| text.as_ref().is_none_or(|text| mentions(event, text));
        for event in events {
            if holds(&event) && call.admits_object(&event.draft.object) && lives.hold(&event).await? {
                found.push(event);
            }
        }
        looks += 1;
        if found.len() > wanted.limit {
            found.truncate(wanted.limit);
            break found.last().map(|event| event.seq);
        }
        // What lies out of reach may be most of it: a page ends after so many looks, with a cursor.
        match last {
            Some(last) if !whole && looks < MAX_LOOKS => asked.before = Some(last),
            Some(last) if !whole => break Some(last),
            Some(_) | None => break None,
        }
    };
    let next = next.map(|seq| page::cursor(&seq.to_string()));
    Ok(axum::Json(Page::at(position, found.into_iter().map(AuditView::of).collect(), next)))
}

/// Whose events a caller with a scope may read. Labels are those of the service that has a name now; what stands in the
/// trail of one that had it before may never have been within reach.
struct Lives<'c> {
    call: &'c Call,
    /// The last removal of each service that was met.
    ended: HashMap<String, Option<Seq>>,
}

impl Lives<'_> {
    /// Whether an event is about the present holder of its object's name.
    async fn hold(&mut self, event: &AuditEvent) -> Result<bool, Problem> {
        let object = &event.draft.object;
        if self.call.scope().is_everything() || object.parse::<ServiceKey>().is_err() {
            return Ok(true);
        }
        let ended = match self.ended.get(object) {
            Some(ended) => *ended,
            None => {
                let mut ended = None;
                // By seq: the times of a service that was backfilled are whatever its importer says.
                for act in [Act::Remove, Act::Purge] {
                    let (object, action) = (Some(object.clone()), Some(action(act).to_owned()));
                    let last = AuditQuery { object, action, limit: 1, ..AuditQuery::default() };
                    let last = self.call.state.store.audit(&last).await?;
                    ended = ended.max(last.first().map(|event| event.seq));
                }
                self.ended.insert(object.clone(), ended);
                ended
            }
        };
        Ok(ended.is_none_or(|ended| event.seq > ended))
    }
}

/// The text to look for, in lower case.
fn text_of(text: &str) -> Result<String, Problem> {
    if (1..=MAX_TEXT).contains(&text.len()) {
        return Ok(text.to_lowercase());
    }
    let detail = format!("text is 1 to {MAX_TEXT} bytes");
    Err(Problem::new(ProblemCode::InvalidQuery, detail).with("parameter", "text"))
}

/// Whether an event holds a text. No index knows: whoever asks bounds how many are looked at.
fn mentions(event: &AuditEvent, text: &str) -> bool {
    let draft = &event.draft;
    let holds = |word: &str| word.to_lowercase().contains(text);
    let details = draft.details.iter().any(|(name, value)| holds(name) || said(value, &holds));
    details || holds(&draft.object) || holds(&draft.actor)
}

/// Whether a value, or the name of one, anywhere inside passes.
fn said(details: &serde_json::Value, passes: &impl Fn(&str) -> bool) -> bool {
    use serde_json::Value as V;
    match details {
        V::Null => false,
        V::Bool(_) | V::Number(_) => passes(&details.to_string()),
        V::String(text) => passes(text),
        V::Array(items) => items.iter().any(|item| said(item, passes)),
        V::Object(members) => members.iter().any(|(name, value)| passes(name) || said(value, passes)),
    }
}

fn read(query: &[(String, String)]) -> Result<AuditQuery, Problem> {
    let mut wanted = AuditQuery { limit: page::DEFAULT_LIMIT, ..AuditQuery::default() };
    for (name, value) in query {
        match name.as_str() {
            "object" => wanted.object = Some(value.clone()),
            "action" => wanted.action = Some(value.clone()),
            "actor" => wanted.actor = Some(value.clone()),
            "request_id" => wanted.request_id = Some(value.clone()),
            "since" => wanted.since = Some(moment(name, value)?),
            "until" => wanted.until = Some(moment(name, value)?),
            "before" => {
                let number = value.parse().map_err(|_| {
                    Problem::new(ProblemCode::InvalidQuery, "before is a seq: a whole number")
                        .with("parameter", "before")
                })?;
                narrow(&mut wanted, number);
            }
            "cursor" => narrow(&mut wanted, page::seek(value)?),
            // The store gives at most 1,000 events, and one of them tells whether there are more.
            "limit" => wanted.limit = page::limit(value)?.min(page::MAX_LIMIT - 1),
            // The guard has refused every other name.
            _ => {}
        }
    }
    Ok(wanted)
}

fn narrow(wanted: &mut AuditQuery, before: u64) {
    let before = Seq(before);
    wanted.before = Some(wanted.before.map_or(before, |held| held.min(before)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(pairs: &[(&str, &str)]) -> Result<AuditQuery, Problem> {
        let pairs: Vec<_> = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        read(&pairs)
    }

    #[test]
    fn a_text_is_found_wherever_it_stands() {
        use rollcall_common::time::Timestamp;
        use serde_json::json;

        use crate::store::rows::AuditDraft;

        let details = json!({ "before": { "labels": { "Site": "Zürich" } }, "uses": 41, "list": ["a", true] });
        let draft = AuditDraft {
            at: Timestamp(0),
            action: "service.edited".into(),
            actor: "credential:abc".into(),
            object: "agent/edge-17".into(),
            request_id: Some("hidden".into()),
            details: details.as_object().unwrap().clone().into_iter().collect(),
        };
        let event = AuditEvent { seq: Seq(1), draft };
        for text in ["ZÜRICH", "site", "labels", "41", "edge-17", "credential:", "true"] {
            assert!(mentions(&event, &text_of(text).unwrap()), "{text}");
        }
        // What has a parameter of its own is no part of it.
        for text in ["service.edited", "hidden", "zurich", "null"] {
            assert!(!mentions(&event, &text_of(text).unwrap()), "{text}");
        }
        for bad in ["", &"x".repeat(129)] {
            assert_eq!(text_of(bad).unwrap_err().code(), ProblemCode::InvalidQuery);
        }
    }

    #[test]
    fn queries_are_read_strictly() {
        assert_eq!(asked(&[]).unwrap().limit, 100);
        let wanted = asked(&[("object", "agent/x"), ("action", "service.revoked"), ("limit", "1000")]).unwrap();
        assert_eq!(wanted.object.as_deref(), Some("agent/x"));
        assert_eq!(wanted.limit, 999);
        let both = asked(&[("before", "90"), ("cursor", &page::cursor("70"))]).unwrap();
        assert_eq!(both.before, Some(Seq(70)));
        assert_eq!(asked(&[("cursor", &page::cursor("70")), ("before", "50")]).unwrap().before, Some(Seq(50)));
        assert_eq!(asked(&[("before", "x")]).unwrap_err().code(), ProblemCode::InvalidQuery);
        assert_eq!(asked(&[("cursor", "70")]).unwrap_err().code(), ProblemCode::InvalidCursor);
    }
}

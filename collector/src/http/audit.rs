//! The audit trail over HTTP, newest first.

use rollcall_common::id::Seq;

use super::{
    error::{Problem, ProblemCode},
    extract::{Call, Query, unknown_parameter},
    page::{self, Page},
    view::AuditView,
};
use crate::store::rows::AuditQuery;

const PARAMETERS: &[&str] = &["object", "action", "before", "limit", "cursor"];

pub(super) async fn list(call: Call, query: Query) -> Result<axum::Json<Page<AuditView>>, Problem> {
    let wanted = read(&query.0)?;
    let position = call.state.registry.read(|roster| roster.position());
    // One more than the page holds tells whether there is a next one.
    let asked = AuditQuery { limit: wanted.limit + 1, ..wanted.clone() };
    let mut events = call.state.store.audit(&asked).await?;
    let more = events.len() > wanted.limit;
    events.truncate(wanted.limit);
    let next = events.last().filter(|_| more).map(|event| page::cursor(&event.seq.to_string()));
    Ok(axum::Json(Page::at(position, events.into_iter().map(AuditView::of).collect(), next)))
}

fn read(query: &[(String, String)]) -> Result<AuditQuery, Problem> {
    let mut wanted = AuditQuery { limit: page::DEFAULT_LIMIT, ..AuditQuery::default() };
    for (name, value) in query {
        match name.as_str() {
            "object" => wanted.object = Some(value.clone()),
            "action" => wanted.action = Some(value.clone()),
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
            other => return Err(unknown_parameter(other, PARAMETERS)),
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
        let problem = asked(&[("since", "1")]).unwrap_err();
        assert!(problem.detail().contains("object, action, before, limit, cursor"), "{}", problem.detail());
    }
}

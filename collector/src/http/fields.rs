//! Which members of a service an answer carries: `fields=id,kind,status,labels.site`.
//!
//! The members that there are come from the view types' own schema, so that a new one can be asked for at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::OnceLock,
};

use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::PartialSchema;

use super::{
    error::{Problem, ProblemCode},
    extract::Query,
    openapi::words,
    page::Page,
    routes::Param,
    view::{ServiceDetail, ServiceView},
};

/// Most members in one query.
const MAX_FIELDS: usize = 64;
/// Members whose own members can be picked.
const OBJECTS: [&str; 5] = ["labels", "metadata", "health", "identity", "host"];

/// The parameter of lists and details of services.
pub(super) const PARAM: Param = Param::list::<words::Field>(
    "fields",
    "Only these members, as in `id,status,labels.site`; of `labels`, `metadata`, `health`, `identity` and `host` \
     single members can be picked",
);

/// What was asked for; `None` = everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fields(Option<BTreeMap<String, Option<BTreeSet<String>>>>);

impl Fields {
    /// Reads the parameter.
    ///
    /// # Errors
    /// [`ProblemCode::InvalidQuery`] naming what there is.
    pub(super) fn read(query: &Query) -> Result<Self, Problem> {
        let mut asked = query.0.iter().filter(|(name, _)| name == "fields").peekable();
        if asked.peek().is_none() {
            return Ok(Self(None));
        }
        let invalid = |detail: String| Problem::new(ProblemCode::InvalidQuery, detail).with("parameter", "fields");
        let mut wanted: BTreeMap<String, Option<BTreeSet<String>>> = BTreeMap::new();
        for (n, word) in asked.flat_map(|(_, value)| value.split(',')).enumerate() {
            if n == MAX_FIELDS {
                return Err(invalid(format!("at most {MAX_FIELDS} fields are picked at once")));
            }
            let (member, inner) = word.split_once('.').map_or((word, None), |(member, inner)| (member, Some(inner)));
            if !known().contains(member) || (inner.is_some() && !OBJECTS.contains(&member)) {
                let word: String = word.chars().take(80).collect();
                let allowed: Vec<&str> = known().iter().map(String::as_str).collect();
                let detail = format!("field {word:?} is unknown: use {}", allowed.join(", "));
                return Err(invalid(detail).with("allowed", allowed));
            }
            let held = wanted.entry(member.to_owned()).or_insert_with(|| inner.map(|_| BTreeSet::new()));
            match (held, inner) {
                (Some(held), Some(inner)) => {
                    held.insert(inner.to_owned());
                }
                // The whole member holds its parts too.
                (held, None) => *held = None,
                (None, Some(_)) => {}
            }
        }
        Ok(Self(Some(wanted)))
    }

    /// What is left of a view.
    pub(super) fn of(&self, view: &impl Serialize) -> Value {
        let Value::Object(mut whole) = serde_json::to_value(view).unwrap_or_default() else { return Value::Null };
        let Some(wanted) = &self.0 else { return whole.into() };
        let mut left = Map::new();
        for (member, inner) in wanted {
            let Some(value) = whole.remove(member) else { continue };
            let value = match (inner, value) {
                (Some(inner), Value::Object(all)) => all.into_iter().filter(|(name, _)| inner.contains(name)).collect(),
                (_, value) => value,
            };
            left.insert(member.clone(), value);
        }
        left.into()
    }

    /// What is left of a page.
    pub(super) fn page(&self, page: Page<ServiceView>) -> Response {
        if self.0.is_none() {
            return axum::Json(page).into_response();
        }
        axum::Json(page.map(|view| self.of(&view))).into_response()
    }
}

/// Every member of a service.
fn known() -> &'static BTreeSet<String> {
    static KNOWN: OnceLock<BTreeSet<String>> = OnceLock::new();
    KNOWN.get_or_init(|| {
        let mut known = BTreeSet::new();
        for schema in [ServiceView::schema(), ServiceDetail::schema()] {
            members(&serde_json::to_value(schema).unwrap_or_default(), &mut known);
        }
        known
    })
}

fn members(schema: &Value, into: &mut BTreeSet<String>) {
    if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
        into.extend(properties.keys().cloned());
    }
    for part in schema.get("allOf").and_then(Value::as_array).into_iter().flatten() {
        members(part, into);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields(text: &str) -> Result<Fields, Problem> {
        Fields::read(&Query(vec![("fields".into(), text.into())]))
    }

    #[test]
    fn members_are_picked_and_unknown_ones_refused() {
        let view = json!({"id": "a", "kind": "agent", "labels": {"site": "3", "a.b": "c"}, "health": {"reason": "x"}});
        for (text, left) in [
            ("id", json!({"id": "a"})),
            ("id,labels.site", json!({"id": "a", "labels": {"site": "3"}})),
            ("labels.a.b,labels.none", json!({"labels": {"a.b": "c"}})),
            ("labels.site,labels", json!({"labels": {"site": "3", "a.b": "c"}})),
            ("labels,labels.site", json!({"labels": {"site": "3", "a.b": "c"}})),
            ("host", json!({})),
        ] {
            assert_eq!(fields(text).unwrap().of(&view), left, "{text}");
        }
        assert_eq!(Fields::read(&Query::default()).unwrap().of(&view), view);
        for bad in ["", "colour", "id,", "id.x", "ID", "labels .x"] {
            let problem = fields(bad).unwrap_err();
            assert!(problem.detail().contains("identity"), "{bad}: {}", problem.detail());
        }
        assert!(fields(&["id"; 65].join(",")).unwrap_err().detail().contains("at most 64"));
    }
}

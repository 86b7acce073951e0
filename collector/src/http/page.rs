//! Pages of a list: the envelope, the limit, and the cursor that a caller carries from page to page.
//!
//! A cursor names the last item that was given, so that the next page seeks behind it: page N costs as much
//! as page 1, nothing is given twice, and what is inserted or removed in between disturbs nobody. Its form
//! is opaque to callers and may change.

use std::borrow::Cow;

use data_encoding::BASE64URL_NOPAD;
use serde::Serialize;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        ObjectBuilder, Ref, RefOr, Schema,
        schema::{SchemaType, Type},
    },
};

use super::error::{Problem, ProblemCode};
use crate::store::Position;

/// Items of a page where the caller names no number.
pub(super) const DEFAULT_LIMIT: usize = 100;
/// Most items of a page.
pub(super) const MAX_LIMIT: usize = 1000;

const VERSION: char = '1';

/// A page.
#[derive(Debug, Serialize)]
pub(super) struct Page<T> {
    /// What is on it.
    pub items: Vec<T>,
    /// The cursor of the next page; `null` on the last.
    pub next: Option<String>,
    /// The registry's seq when the page was begun.
    pub seq: u64,
    /// The registry's epoch: seqs of different epochs do not compare.
    pub epoch: u64,
}

impl<T: ToSchema> PartialSchema for Page<T> {
    fn schema() -> RefOr<Schema> {
        let items = Ref::from_schema_name(T::name()).to_array_builder();
        let next = ObjectBuilder::new()
            .schema_type(SchemaType::from_iter([Type::String, Type::Null]))
            .description(Some("The cursor of the next page; null on the last"));
        let whole = |about| ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0)).description(Some(about));
        ObjectBuilder::new()
            .property("items", items)
            .property("next", next)
            .property("seq", whole("The registry's seq when the page was begun"))
            .property("epoch", whole("The registry's epoch: seqs of different epochs do not compare"))
            .required("items")
            .required("next")
            .required("seq")
            .required("epoch")
            .into()
    }
}

impl<T: ToSchema> ToSchema for Page<T> {
    fn name() -> Cow<'static, str> {
        format!("PageOf{}", T::name()).into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((T::name().into_owned(), T::schema()));
        T::schemas(schemas);
    }
}

impl<T> Page<T> {
    /// The same page of other things.
    pub(super) fn map<U>(self, show: impl FnMut(T) -> U) -> Page<U> {
        let Self { items, next, seq, epoch } = self;
        Page { items: items.into_iter().map(show).collect(), next, seq, epoch }
    }

    /// A page read at a position.
    pub(super) fn at(position: Position, items: Vec<T>, next: Option<String>) -> Self {
        Self { items, next, seq: position.seq.0, epoch: position.epoch }
    }
}

/// Makes a cursor.
#[must_use]
pub(super) fn cursor(last: &str) -> String {
    BASE64URL_NOPAD.encode(format!("{VERSION}{last}").as_bytes())
}

/// Reads a cursor.
///
/// # Errors
/// [`ProblemCode::InvalidCursor`] for a text that no collector made.
pub(super) fn seek<T: std::str::FromStr>(cursor: &str) -> Result<T, Problem> {
    let bytes = BASE64URL_NOPAD.decode(cursor.as_bytes()).ok();
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    let last = text.as_deref().and_then(|text| text.strip_prefix(VERSION)?.parse().ok());
    last.ok_or_else(|| {
        Problem::new(ProblemCode::InvalidCursor, "the cursor is not one of this API: take it from `next` as it is")
    })
}

/// Reads a limit.
///
/// # Errors
/// [`ProblemCode::InvalidQuery`] outside 1 to [`MAX_LIMIT`].
pub(super) fn limit(text: &str) -> Result<usize, Problem> {
    let limit = text.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit));
    limit.ok_or_else(|| {
        let shown: String = text.chars().take(40).collect();
        let detail = format!("limit {shown:?} is not a number between 1 and {MAX_LIMIT}");
        Problem::new(ProblemCode::InvalidQuery, detail).with("parameter", "limit")
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rollcall_common::id::ServiceKey;

    use super::*;

    #[test]
    fn limits_are_bounded() {
        assert_eq!(limit("1").ok(), Some(1));
        assert_eq!(limit("1000").ok(), Some(1000));
        for bad in ["0", "1001", "-1", "", "ten", "99999999999999999999", "1.0"] {
            assert!(limit(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn cursors_round_trip_and_hostile_ones_are_refused(id in "[a-z0-9]{1,20}", text in "\\PC{0,60}") {
            let key: ServiceKey = format!("agent/{id}").parse().map_err(|_| TestCaseError::fail("key"))?;
            let back = seek::<ServiceKey>(&cursor(&key.to_string()));
            prop_assert_eq!(back.ok(), Some(key));
            let _ = seek::<ServiceKey>(&text);
            let spoiled = cursor(&format!("{text} "));
            prop_assert!(seek::<ServiceKey>(&spoiled).is_err());
        }
    }
}

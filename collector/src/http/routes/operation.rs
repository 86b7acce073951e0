//! One operation as declared: everything that a caller may know of it.

use std::{borrow::Cow, collections::BTreeSet, fmt};

use axum::http::Method;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{RefOr, Schema},
};

use super::Param;
use crate::http::{access::Permission, error::ProblemCode, extract::MAX_BODY, once, position};

/// A type's schema, by its name.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    /// What it is called in the document.
    pub name: fn() -> Cow<'static, str>,
    /// What it looks like.
    pub schema: fn() -> RefOr<Schema>,
    /// The schemas that it leans on.
    pub more: fn(&mut Vec<(String, RefOr<Schema>)>),
}

impl Shape {
    /// The shape of a type.
    pub(crate) const fn of<T: ToSchema>() -> Self {
        Self { name: T::name, schema: <T as PartialSchema>::schema, more: T::schemas }
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shape({})", (self.name)())
    }
}

/// A body that an operation takes.
#[derive(Debug, Clone)]
pub(crate) struct Body {
    /// Its media types; the first one is preferred.
    pub media: &'static [&'static str],
    /// Its shape.
    pub shape: Shape,
    /// Whether a request without one is refused.
    pub required: bool,
}

/// An answer that is no problem.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    /// Its status.
    pub status: u16,
    /// What it means.
    pub about: &'static str,
    /// Its media type and shape; `None` = no body.
    pub content: Option<(&'static str, Option<Shape>)>,
    /// Whether the caller can pick members, so that some are missing.
    pub selected: bool,
}

/// One operation: a method on a path, and all that is promised about it.
#[derive(Debug, Clone)]
pub(crate) struct Operation {
    /// Its method.
    pub method: Method,
    /// Its path, with `{names}` for the parts that vary.
    pub path: String,
    /// What it demands.
    pub permission: Permission,
    /// Its name in the document, unique.
    pub id: String,
    /// Its group.
    pub tag: &'static str,
    /// One line about it.
    pub summary: String,
    /// More about it, in Markdown.
    pub description: String,
    /// The parts of the path that vary.
    pub path_params: Vec<Param>,
    /// Its query parameters; every other one is refused.
    pub query: Vec<Param>,
    /// Its headers beside the usual ones.
    pub headers: Vec<Param>,
    /// Its body.
    pub body: Option<Body>,
    /// Its answers.
    pub answers: Vec<Answer>,
    /// The problems of its own.
    pub codes: Vec<ProblemCode>,
    /// Whether it may take longer than the rest.
    pub streams: bool,
    /// Whether all that it answers and does is narrowed to the caller's scope.
    pub scoped: bool,
    /// Largest body, in bytes.
    pub body_limit: usize,
    /// Whether its answer carries a tag, and may be spared.
    pub tagged: bool,
    /// Whether it can be bound to a tag.
    pub matches: bool,
    /// Whether it is done once for each `Idempotency-Key`.
    pub once: bool,
}

#[allow(dead_code, reason = "the builder is whole; each resource uses the parts that it needs")]
impl Operation {
    /// Declares an operation. The id is its name for generated clients: `verb_noun`.
    pub(crate) fn new(method: Method, path: &str, permission: Permission, id: &str) -> Self {
        Self {
            method,
            path: path.into(),
            permission,
            id: id.into(),
            tag: "",
            summary: String::new(),
            description: String::new(),
            path_params: Vec::new(),
            query: Vec::new(),
            headers: Vec::new(),
            body: None,
            answers: Vec::new(),
            codes: Vec::new(),
            streams: false,
            scoped: false,
            body_limit: MAX_BODY,
            tagged: false,
            matches: false,
            once: false,
        }
    }

    /// Declares a `GET`.
    pub(crate) fn get(path: &str, permission: Permission, id: &str) -> Self {
        Self::new(Method::GET, path, permission, id)
    }

    /// Declares a `POST`.
    pub(crate) fn post(path: &str, permission: Permission, id: &str) -> Self {
        Self::new(Method::POST, path, permission, id)
    }

    /// Declares a `PUT`.
    pub(crate) fn put(path: &str, permission: Permission, id: &str) -> Self {
        Self::new(Method::PUT, path, permission, id)
    }

    /// Declares a `PATCH`.
    pub(crate) fn patch(path: &str, permission: Permission, id: &str) -> Self {
        Self::new(Method::PATCH, path, permission, id)
    }

    /// Declares a `DELETE`.
    pub(crate) fn delete(path: &str, permission: Permission, id: &str) -> Self {
        Self::new(Method::DELETE, path, permission, id)
    }

    /// One line about it.
    pub(crate) fn about(mut self, summary: impl Into<String>) -> Self {
        self.summary = summary.into();
        self
    }

    /// More about it, in Markdown.
    pub(crate) fn more(mut self, description: impl Into<String>) -> Self {
        self.description = description.into();
        self
    }

    /// A part of the path that varies.
    pub(crate) fn path<T: PartialSchema>(mut self, name: &'static str, about: &'static str) -> Self {
        self.path_params.push(Param::of::<T>(name, about).required());
        self
    }

    /// Query parameters; may be called several times.
    pub(crate) fn query(mut self, params: &[Param]) -> Self {
        self.query.extend_from_slice(params);
        self
    }

    /// A header beside the usual ones.
    pub(crate) fn header(mut self, param: Param) -> Self {
        self.headers.push(param);
        self
    }

    /// A JSON body.
    pub(crate) fn body<T: ToSchema>(self) -> Self {
        self.body_as::<T>(&["application/json"])
    }

    /// A body of other media types.
    pub(crate) fn body_as<T: ToSchema>(mut self, media: &'static [&'static str]) -> Self {
        self.body = Some(Body { media, shape: Shape::of::<T>(), required: true });
        self
    }

    /// Lets a body be larger, or makes it be smaller, than the usual 64 KiB.
    pub(crate) fn body_limit(mut self, bytes: usize) -> Self {
        self.body_limit = bytes;
        self
    }

    /// An answer in JSON.
    pub(crate) fn answer<T: ToSchema>(mut self, status: u16, about: &'static str) -> Self {
        self.answers.push(Answer {
            status,
            about,
            content: Some(("application/json", Some(Shape::of::<T>()))),
            selected: false,
        });
        self
    }

    /// An answer in JSON that holds less where the caller picked `fields`.
    pub(crate) fn selected<T: ToSchema>(mut self, status: u16, about: &'static str) -> Self {
        self.answers.push(Answer {
            status,
            about,
            content: Some(("application/json", Some(Shape::of::<T>()))),
            selected: true,
        });
        self
    }

    /// An answer in another media type; its shape is told in words.
    pub(crate) fn answer_as(mut self, status: u16, media: &'static str, about: &'static str) -> Self {
        self.answers.push(Answer { status, about, content: Some((media, None)), selected: false });
        self
    }

    /// An answer without a body.
    pub(crate) fn empty(mut self, status: u16, about: &'static str) -> Self {
        self.answers.push(Answer { status, about, content: None, selected: false });
        self
    }

    /// Problems of its own, beside those that any operation of its sort can give.
    pub(crate) fn gives(mut self, codes: &[ProblemCode]) -> Self {
        self.codes.extend_from_slice(codes);
        self
    }

    /// Lets its answer take as long as it takes: for streams and downloads, which bound themselves.
    pub(crate) fn streams(mut self) -> Self {
        self.streams = true;
        self
    }

    /// Says that the handler narrows all that it answers and does to the caller's scope (`http/call.rs`). Without
    /// this a caller with a label scope is refused.
    pub(crate) fn scoped(mut self) -> Self {
        self.scoped = true;
        self
    }

    /// Says that the answer of a detail is [`Tagged`](crate::http::position::Tagged): it has an `ETag`, and
    /// `If-None-Match` is heeded.
    pub(crate) fn tagged(mut self) -> Self {
        self.tagged = true;
        self.header(position::IF_NONE_MATCH).empty(304, "It has not changed")
    }

    /// Says that the change is asked for by `Call::change`, so that `If-Match` is heeded.
    pub(crate) fn matches(mut self) -> Self {
        self.matches = true;
        self.header(position::IF_MATCH).gives(&[ProblemCode::Changed])
    }

    /// Says that it makes something by `Call::once`, so that `Idempotency-Key` is heeded.
    pub(crate) fn once(mut self) -> Self {
        self.once = true;
        self.header(once::KEY_PARAM).gives(&[ProblemCode::KeyReused, ProblemCode::KeyUnderway])
    }

    /// The same where the answer tells a secret, which a repetition cannot.
    pub(crate) fn once_told(self) -> Self {
        self.once().gives(&[ProblemCode::SecretAlreadyShown])
    }

    /// Whether it is a read that can wait for a position.
    pub(crate) fn waits(&self) -> bool {
        self.method == Method::GET && self.permission == Permission::Read && !self.streams
    }

    /// Whether it changes something.
    pub(crate) fn changes(&self) -> bool {
        self.method != Method::GET
    }

    /// Every problem that it can give: its own, and those of its sort.
    pub(crate) fn problems(&self) -> BTreeSet<ProblemCode> {
        use ProblemCode as C;
        let mut all: BTreeSet<C> = self.codes.iter().copied().collect();
        all.extend([C::InvalidQuery, C::InvalidHead, C::WrongHost, C::Internal]);
        let mut when = |condition: bool, codes: &[C]| {
            if condition {
                all.extend(codes);
            }
        };
        when(!self.streams, &[C::TimedOut]);
        when(
            self.permission != Permission::Open,
            &[C::Unauthenticated, C::Forbidden, C::Throttled, C::IssuerUnavailable],
        );
        when(!self.path_params.is_empty(), &[C::InvalidId]);
        when(self.query.iter().any(|param| param.name == "cursor"), &[C::InvalidCursor]);
        when(self.body.is_some(), &[C::InvalidBody, C::Invalid, C::MediaType, C::TooLarge, C::SlowBody]);
        when(self.once, &[C::TooLarge, C::SlowBody]);
        when(self.waits(), &[C::Behind, C::OtherEpoch]);
        when(self.changes(), &[C::Busy, C::StoreUnavailable, C::Draining]);
        all
    }

    /// The parameter of a name in the query.
    pub(crate) fn query_param(&self, name: &str) -> Option<&Param> {
        self.query.iter().find(|param| param.name == name)
    }
}

//! Parameters as data: what the guard refuses by is what the document shows.

use std::fmt;

use utoipa::{
    PartialSchema,
    openapi::{RefOr, Schema},
};

/// How often a query parameter may come, and how it holds several values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// Once, one value.
    One,
    /// Once, values divided by commas.
    List,
    /// As often as wanted, one value each.
    Each,
}

/// A parameter of an operation: in the path, the query or the head.
#[derive(Clone, Copy)]
pub(crate) struct Param {
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub about: &'static str,
    /// Its shape on the wire.
    pub form: Form,
    /// Whether a request without it is refused; the handler refuses.
    pub required: bool,
    /// The schema of one value.
    pub schema: fn() -> RefOr<Schema>,
}

impl Param {
    /// A parameter with one value.
    pub(crate) const fn of<T: PartialSchema>(name: &'static str, about: &'static str) -> Self {
        Self { name, about, form: Form::One, required: false, schema: T::schema }
    }

    /// A parameter whose values are divided by commas.
    pub(crate) const fn list<T: PartialSchema>(name: &'static str, about: &'static str) -> Self {
        Self { form: Form::List, ..Self::of::<T>(name, about) }
    }

    /// A parameter that may come several times.
    pub(crate) const fn each<T: PartialSchema>(name: &'static str, about: &'static str) -> Self {
        Self { form: Form::Each, ..Self::of::<T>(name, about) }
    }

    /// Says that a request without it is refused.
    pub(crate) const fn required(self) -> Self {
        Self { required: true, ..self }
    }
}

impl fmt::Debug for Param {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Param").field("name", &self.name).field("form", &self.form).finish_non_exhaustive()
    }
}

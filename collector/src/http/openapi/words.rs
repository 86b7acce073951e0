//! Schemas of the words that domain types bring to the wire. View types name them by
//! `#[schema(value_type = words::Kind)]`, parameters by `Param::of::<words::Kind>`.
//!
//! They stand beside the domain types and take their words from them, so that a word added there is added
//! here, and the domain knows nothing of documents.

use std::borrow::Cow;

use rollcall_common::{health, id, lease, lifecycle, service, token, wire::Transport as Carried};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        Object, ObjectBuilder, RefOr, Schema,
        schema::{AdditionalProperties, KnownFormat, SchemaFormat, Type},
    },
};

use crate::{
    http::{filter, page},
    jobs,
    registry::{feed, leases::Origin as OriginWord, settings, tokens},
    store::rows,
};

macro_rules! words {
    ($($(#[doc = $doc:literal])* $name:ident = $object:expr;)*) => {$(
        $(#[doc = $doc])*
        #[derive(Debug)]
        #[allow(dead_code, reason = "a word stands for its schema and is never made")]
        pub(crate) struct $name;

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                let object: ObjectBuilder = $object;
                object.description(Some(concat!($($doc),*).trim())).into()
            }
        }

        impl ToSchema for $name {
            fn name() -> Cow<'static, str> {
                stringify!($name).into()
            }
        }
    )*};
}

fn one_of<'a>(words: impl IntoIterator<Item = &'a str>) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words))
}

fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

fn matching(pattern: &str, longest: usize) -> ObjectBuilder {
    text().pattern(Some(pattern)).max_length(Some(longest))
}

fn number(minimum: i64, maximum: i64) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(minimum)).maximum(Some(maximum))
}

fn whole() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0))
}

fn open_object(values: Schema) -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::Object)
        .additional_properties(Some(AdditionalProperties::RefOr(RefOr::T(values))))
}

fn size(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// What an id of a service, a checker kind and the like is made of; `..` is refused besides.
const NAME: &str = "^[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?$";

words! {
    /// What a service is.
    Kind = one_of(id::Kind::ALL.map(id::Kind::as_str));
    /// The lifecycle status.
    Status = one_of(lifecycle::Status::ALL.map(lifecycle::Status::as_str));
    /// What is observed.
    Presence = one_of(lease::Presence::ALL.map(lease::Presence::as_str));
    /// What is said of a service.
    Health = one_of(health::Health::ALL.map(health::Health::as_str));
    /// Whether a service gets on with its work.
    Progress = one_of(health::Progress::ALL.map(health::Progress::as_str));
    /// Where the settings of a sidecar stand.
    SettingsStanding = one_of(settings::Standing::ALL.map(settings::Standing::as_str));
    /// A machine, told apart from others: 32 hexadecimal digits.
    Machine = matching("^[0-9a-f]{32}$", 32);
    /// How a service was registered.
    Source = one_of(service::Source::ALL.map(service::Source::as_str));
    /// Where a token stands.
    TokenState = one_of(tokens::TokenState::ALL.map(tokens::TokenState::as_str));
    /// Whose word a presence is.
    Origin = one_of(OriginWord::ALL.map(OriginWord::as_str));
    /// What carries a sidecar's connection.
    Transport = one_of(Carried::ALL.map(Carried::as_str));
    /// A job.
    JobName = one_of(jobs::JobName::ALL.map(jobs::JobName::as_str));
    /// Where a maintenance window stands.
    WindowState = one_of(["scheduled", "active", "ended"]);
    /// Where a request for approval stands.
    ApprovalState = one_of(crate::http::approvals::states());
    /// The id of a row: a ULID in lower case.
    RowId = matching("^[0-7][0-9a-hjkmnp-tv-z]{25}$", 26);
    /// Who decides on each enrollment: the token alone, or an operator.
    Approval = one_of(rows::Approval::ALL.map(rows::Approval::as_str));
    /// A pattern for ids: `*` stands for any run of characters, `?` for one.
    IdPattern = matching("^[a-z0-9._*?-]{1,64}$", 64);
    /// A name: 1 to 64 of a-z 0-9 . _ - that begins and ends with a letter or digit, without `..`.
    Id = matching(NAME, 64);
    /// The public half of a token, credential or package.
    TokenId = matching("^[a-z2-7]{16}$", 16);
    /// A service by kind and id, as in `agent/edge-17`.
    Key = matching("^(poller|agent|checker|instance)/[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?$", 75);
    /// A moment, RFC 3339 in UTC.
    Time = text().format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)));
    /// A span of time, as in `30s`, `1h30m` or `7d`.
    Duration = matching("^([0-9]{1,10}(ms|s|m|h|d|w))+$", 64);
    /// Labels or metadata: at most 32 pairs.
    Pairs = open_object(Schema::Object(Object::builder().schema_type(Type::String)
        .max_length(Some(service::MAX_VALUE)).build())).max_properties(Some(service::MAX_PAIRS))
        .property_names(Some(Schema::Object(Object::builder().schema_type(Type::String)
            .pattern(Some("^[a-z0-9_.-]{1,63}$")).build())));
    /// Changes of labels or metadata: a text sets, `null` takes out.
    PairsPatch = open_object(Schema::Object(Object::builder()
        .schema_type(utoipa::openapi::schema::SchemaType::from_iter([Type::String, Type::Null]))
        .max_length(Some(service::MAX_VALUE)).build()))
        .property_names(Some(Schema::Object(Object::builder().schema_type(Type::String)
            .pattern(Some("^[a-z0-9_.-]{1,63}$")).build())));
    /// A SPIFFE id.
    SpiffeId = matching("^spiffe://[a-z0-9._-]{1,255}(/[A-Za-z0-9._-]+)+$", 2048);
    /// What makes a service known.
    Via = one_of(crate::registry::known::Via::ALL.map(crate::registry::known::Via::as_str));
    /// Counts by word.
    Counts = open_object(Schema::Object(Object::builder().schema_type(Type::Integer).minimum(Some(0)).build()));
    /// Anything that JSON can say.
    Anything = ObjectBuilder::new().schema_type(utoipa::openapi::schema::SchemaType::AnyValue);
    /// An object whose members depend on the occasion.
    Details = ObjectBuilder::new().schema_type(Type::Object)
        .additional_properties(Some(AdditionalProperties::FreeForm(true)));
    /// Items of a page.
    Limit = number(1, size(page::MAX_LIMIT)).default(Some(page::DEFAULT_LIMIT.into()));
    /// Where the next page begins: `next` of the page before, as it was.
    Cursor = matching("^[A-Za-z0-9_-]{1,512}$", 512);
    /// A position: a seq, or epoch and seq as in `2-41`.
    At = matching("^([0-9]{1,19}-)?[0-9]{1,19}$", 39);
    /// By what services are ordered.
    ServiceOrder = one_of(filter::Order::ALL);
    /// What a request calls itself: visible ASCII, bare or in quotes.
    IdempotencyKey = matching("^[!-~]{1,255}$", 255);
    /// Tags as in `"2-41"`, divided by commas, or `*`.
    Tags = matching("^(\\*|\"[0-9]{1,19}-[0-9]{1,19}\"(, *\"[0-9]{1,19}-[0-9]{1,19}\"){0,15})$", 700);
    /// A place in the registry's commit order.
    Seq = whole();
    /// A position in the change feed: epoch and seq.
    Position = matching("^[0-9]{1,20}-[0-9]{1,20}$", 41);
    /// A hash, in lower case.
    Hash = matching("^[0-9a-f]{64}$", 64);
    /// What an event tells.
    EventKind = one_of(feed::EventKind::ALL.map(feed::EventKind::as_str));
    /// A whole number, not negative.
    Number = whole();
    /// Yes or no.
    Flag = ObjectBuilder::new().schema_type(Type::Boolean);
    /// Free words, one line.
    Text = text().max_length(Some(256));
    /// Why there is no verdict.
    Unknown = one_of(lease::Unknown::ALL.map(lease::Unknown::as_str));
    /// A test of a label.
    LabelTest = text().min_length(Some(1)).max_length(Some(4096));
    /// A member of a service.
    Field = matching("^[a-z_]+([.].{1,63})?$", 128);
    /// A text to look for.
    Search = text().max_length(Some(128));
    /// An address that sidecars dial: host and port.
    Address = matching("^.+:[0-9]{1,5}$", 300);
    /// A range of addresses, as in `192.0.2.0/24`.
    Range = text().max_length(Some(64));
    /// The name of a document: an id and `.json`.
    JsonFile = matching("^[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?\\.json$", 69);
    /// Where an onboarding package stands.
    PackageStatus = one_of(rows::PackageStatus::ALL.map(rows::PackageStatus::as_str));
    /// What fetches an onboarding package. It is shown once.
    PackageSecret = matching("^rollcall_pkg1_[a-z2-7]{16}_[a-z2-7]{40,}$", 128);
    /// Label tests that all must pass, as in `site=3,env in (prod,staging)`; empty = everything.
    Scope = text().max_length(Some(crate::scope::MAX_TEXT));
    /// A whole onboarding token. It is shown once.
    Token = text().max_length(Some(token::MAX_TEXT));
}

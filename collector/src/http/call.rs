//! An authenticated request, and the only way from it to what is registered.
//!
//! It owns the rule that a caller sees nothing outside its scope: what is there but not within reach is
//! answered like what is not there. Handlers ask the [`Call`], never the roster behind it; lists and counts
//! take the caller's [`Scope`] ([`super::scan`]), and a route that does not say that it narrows what it
//! answers is closed to scoped callers altogether (`super::routes`).

use std::sync::Arc;

use axum::{extract::FromRequestParts, http::request::Parts};
use rollcall_common::{
    id::{Seq, ServiceId, ServiceKey},
    service::Pairs,
    token::TokenId,
};

use super::{
    State,
    access::{Caller, Permission},
    error::{Problem, ProblemCode},
    extract::RequestId,
    filter::{SHORT, Wanted, Way},
    page::{self, Page},
    position::Tagged,
    routes::Expected,
    scan::{Listing, Seen, walk},
    view::{Light, ServiceDetail, ServiceView},
};
use crate::{
    registry::{
        ParentProblem, Refusal, Request,
        expect::{Expect, Expecting},
        maintenance::Cover,
        roster::{Entry, Roster},
        services::By,
    },
    scope::Scope,
    store::{
        Position,
        rows::{IdRule, TokenPolicy, TokenRow},
    },
};

/// An authenticated request: what every handler behind a permission begins with.
pub(super) struct Call {
    pub(super) state: Arc<State>,
    pub(super) caller: Caller,
    request_id: RequestId,
    expect: Option<Expect>,
}

impl FromRequestParts<Arc<State>> for Call {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &Arc<State>) -> Result<Self, Problem> {
        // Nobody else asks for it: what the guard made is taken, not copied.
        let caller = parts.extensions.remove::<Caller>();
        let request_id = parts.extensions.get::<RequestId>().cloned();
        let expect = parts.extensions.get::<Expected>().and_then(|expected| expected.0.clone());
        match (caller, request_id) {
            (Some(caller), Some(request_id)) => Ok(Self { state: Arc::clone(state), caller, request_id, expect }),
            // An open route has no caller: its handler must not ask for one.
            (_, _) => Err(Problem::new(ProblemCode::Internal, "the route has no guard")),
        }
    }
}

impl Call {
    /// The caller, for the audit trail.
    pub(super) fn by(&self) -> By {
        self.caller.by(&self.request_id.0)
    }

    /// Refuses what the role does not allow, where the body decides what is asked.
    pub(super) fn demand(&self, permission: Permission) -> Result<(), Problem> {
        self.caller.demand(permission)
    }

    /// Asks for a change of one row, whose seq `row` finds, and waits until it is durable. Where the caller
    /// bound it to a tag (`If-Match`), the change is refused from any other.
    pub(super) async fn change<R: Request>(
        &self,
        row: impl Fn(&Roster) -> Option<Seq> + Send + 'static,
        request: R,
    ) -> Result<R::Answer, Problem> {
        Ok(self.state.registry.ask(Expecting { request, row, expect: self.expect.clone() }).await?)
    }

    /// Shows something registered with its tag.
    pub(super) fn tagged<T>(&self, seq: Seq, view: T) -> Tagged<T> {
        Tagged { epoch: self.state.registry.read(|roster| roster.position().epoch), seq, view }
    }

    /// What the caller reaches: for lists, counts, bulk selections, feeds and exports.
    pub(super) fn scope(&self) -> &Scope {
        &self.caller.scope
    }

    /// One service, if it is there and within reach.
    pub(super) fn find(&self, key: &ServiceKey) -> Result<Seen, Problem> {
        let registry = &self.state.registry;
        let now = registry.now().boot;
        let seen = registry.read(|roster| {
            let entry = roster.get(key).filter(|entry| self.scope().admits(&entry.row.labels))?;
            Some(Seen::look(roster, self.scope(), entry, registry.leases().sight(entry.slot, now)))
        });
        seen.ok_or_else(|| Refusal::UnknownService(key.clone()).into())
    }

    /// Whether a service is there and within reach.
    pub(super) fn reaches(&self, key: &ServiceKey) -> bool {
        let within = |entry: &Entry| self.scope().admits(&entry.row.labels);
        self.state.registry.read(|roster| roster.get(key).is_some_and(within))
    }

    /// Refuses a parent that is not within reach in the words for one that is not there. Callers that reach
    /// everything are left to the registry, which knows more of what may be wrong.
    pub(super) fn finds_parent(&self, parent: &ServiceKey) -> Result<(), Problem> {
        if self.scope().is_everything() || self.find(parent).is_ok() {
            return Ok(());
        }
        Err(Refusal::from(ParentProblem::Unknown(parent.clone())).into())
    }

    /// Refuses labels that would put what carries them out of the caller's reach.
    pub(super) fn holds(&self, labels: &Pairs) -> Result<(), Problem> {
        if self.scope().admits(labels) {
            return Ok(());
        }
        let detail = format!("the caller reaches only {}: what it makes must carry these labels", self.scope());
        Err(Problem::new(ProblemCode::Invalid, detail).with("scope", self.scope().to_string()))
    }

    /// One token, if it is there and within reach.
    pub(super) fn token(&self, id: TokenId) -> Result<Arc<TokenRow>, Problem> {
        let row = self.state.registry.read(|roster| roster.token(id).cloned());
        row.filter(|row| self.scope().admits(&row.policy.labels)).ok_or_else(|| Refusal::UnknownToken(id).into())
    }

    /// Refuses a token through which something could come in, or be taken over, that is not within reach:
    /// its labels must lie within the scope, its parent must be there, and what already has an id that it
    /// may give must be within reach too.
    pub(super) fn may_mint(&self, policy: &TokenPolicy) -> Result<(), Problem> {
        self.caller.may_enroll(policy, self.state.registry.now().wall)?;
        if self.scope().is_everything() {
            return Ok(());
        }
        self.holds(&policy.labels)?;
        if let Some(kind) = policy.kind.parent() {
            // A rule would let the sidecar's own labels choose among all parents.
            let detail = "a caller with a label scope names the parent of what it lets in";
            let parent = policy.parent.clone().filter(|_| policy.parent_rule.is_none());
            let parent = parent.ok_or_else(|| Problem::new(ProblemCode::ParentMissing, detail))?;
            self.finds_parent(&ServiceKey::new(kind, parent))?;
        }
        let given = |id: &ServiceId| match &policy.id_rule {
            IdRule::Fixed(fixed) => fixed == id,
            IdRule::Prefix(prefix) => id.as_str().starts_with(prefix.as_str()),
            IdRule::Pattern(pattern) => pattern.matches(id),
            IdRule::Assigned => false,
        };
        let taken = self.state.registry.read(|roster| match &policy.id_rule {
            IdRule::Assigned => false,
            IdRule::Fixed(id) => {
                let there = roster.get(&ServiceKey::new(policy.kind, id.clone()));
                there.is_some_and(|entry| !self.scope().admits(&entry.row.labels))
            }
            IdRule::Prefix(_) | IdRule::Pattern(_) => roster
                .seek(Some(policy.kind), None)
                .any(|entry| given(&entry.row.key.id) && !self.scope().admits(&entry.row.labels)),
        });
        if taken {
            let detail = "an id that this token could give is taken: choose another id or prefix";
            return Err(Problem::new(ProblemCode::Exists, detail));
        }
        Ok(())
    }

    /// Whether what an audit event is about lies within reach. What is there no more is within reach of
    /// those only who reach everything: nobody can tell any longer what labels it had.
    pub(super) fn admits_object(&self, object: &str) -> bool {
        if self.scope().is_everything() {
            return true;
        }
        let registry = &self.state.registry;
        if let Some(id) = object.strip_prefix("token:") {
            return id.parse().is_ok_and(|id| self.token(id).is_ok());
        }
        let Ok(key) = object.parse::<ServiceKey>() else { return false };
        registry.read(|roster| roster.get(&key).is_some_and(|entry| self.scope().admits(&entry.row.labels)))
    }

    /// A page of what is wanted and within reach.
    pub(super) fn page(&self, wanted: Wanted) -> Page<ServiceView> {
        let (position, items, next) = self.seen(wanted);
        Page::at(position, items, next.map(|key| page::cursor(&key.to_string())))
    }

    /// The same before it is a page: where the registry stood, what was seen, and behind which key more begins.
    pub(super) fn seen(&self, wanted: Wanted) -> (Position, Vec<ServiceView>, Option<ServiceKey>) {
        let registry = &self.state.registry;
        let now = registry.now();
        let sight = |slot| registry.leases().sight(slot, now.boot);
        let position = registry.read(|roster| roster.position());
        let way = Way::choose(registry, &wanted.filter, now.boot, SHORT);
        let cover = registry.cover();
        let mut listing = Listing::new(self.scope().clone(), wanted, way, now).under(Arc::clone(&cover));
        while registry.read(|roster| listing.advance(roster, &sight)) {}
        let (found, next) = listing.finish();
        let light = self.light(&cover);
        let show = |seen: &Seen| ServiceView::of(seen, registry.links().get(seen.entry.slot).as_ref(), light);
        (position, found.iter().map(show).collect(), next)
    }

    /// Who would be on a list, were it one page.
    pub(super) fn select(&self, wanted: Wanted) -> Vec<ServiceKey> {
        let registry = &self.state.registry;
        let now = registry.now();
        let sight = |slot| registry.leases().sight(slot, now.boot);
        let way = Way::choose(registry, &wanted.filter, now.boot, SHORT);
        let mut listing = Listing::new(self.scope().clone(), wanted, way, now);
        while registry.read(|roster| listing.advance(roster, &sight)) {}
        listing.finish().0.into_iter().map(|seen| seen.entry.row.key.clone()).collect()
    }

    /// The children of a service, for an act that takes them along: all of them, with what stands below them,
    /// must be within reach.
    pub(super) fn below(&self, key: &ServiceKey) -> Result<Vec<ServiceKey>, Problem> {
        let admits = |entry: &Entry| self.scope().admits(&entry.row.labels);
        let (children, within) = self.state.registry.read(|roster| {
            let within = self.scope().is_everything()
                || roster.children(key).all(|child| admits(child) && roster.children(&child.row.key).all(admits));
            (roster.children(key).map(|child| child.row.key.clone()).collect(), within)
        });
        if within {
            return Ok(children);
        }
        let detail = format!("something below {key} is not within the caller's reach");
        Err(Problem::new(ProblemCode::Forbidden, detail))
    }

    /// Everything about one service.
    pub(super) fn detail(&self, seen: &Seen) -> ServiceDetail {
        let registry = &self.state.registry;
        let link = registry.links().get(seen.entry.slot);
        let told = registry.children().told(seen.entry.slot).cloned();
        ServiceDetail::of(seen, link.as_ref(), told.as_ref(), self.light(&registry.cover()))
    }

    /// How many sidecars within reach are connected.
    pub(super) fn connections(&self) -> usize {
        let registry = &self.state.registry;
        if self.scope().is_everything() {
            return registry.links().len();
        }
        let mut connected = 0;
        walk(registry, self.scope(), None, |_, entry, _| {
            connected += usize::from(registry.links().get(entry.slot).is_some());
        });
        connected
    }

    fn light<'a>(&'a self, cover: &'a Cover) -> Light<'a> {
        let registry = &self.state.registry;
        Light {
            now: registry.now(),
            trust_domain: &registry.whoami().trust_domain,
            cover,
            recorded: (registry.metrics().unrecorded.get() == 0).then_some(true),
        }
    }
}

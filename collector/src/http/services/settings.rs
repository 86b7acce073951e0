//! Settings of a sidecar over HTTP: what is wanted, what is in force, and why that differs.

use std::time::Duration;

use rollcall_common::{
    id::{Kind, ServiceId, ServiceKey},
    wire::settings::{ProbeState, Tuning},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    super::{
        access::Permission,
        error::{Problem, ProblemCode},
        extract::{Call, Id, Json},
        openapi::words,
        position::Tagged,
        routes::{Operation, Routes},
        scan::Seen,
        view::Time,
    },
    ROOT, TAG, seq_of,
};
use crate::{
    config::duration,
    registry::settings::{ChangeSettings, Reach, SettingsProblem, Standing, Wish, pace_of, why},
};

/// What is wanted of a sidecar, as a whole: what is left out is as its host's own files have it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SettingsBody {
    /// Time between two heartbeats, `100ms` to `10m`; the collector's own where it is left out.
    #[schema(value_type = Option<words::Duration>)]
    interval: Option<String>,
    /// How long one heartbeat is good for: three intervals at least, `1h` at most. Left out, it follows from the interval
    /// in the collector's own proportion.
    #[schema(value_type = Option<words::Duration>)]
    ttl: Option<String>,
    /// How single probes are to run; at most 32.
    #[serde(default)]
    probes: Vec<TuningBody>,
}

/// How one probe is to run. What is left out is as the host's files have it; something must be said.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TuningBody {
    /// Its name in the host's files.
    #[schema(value_type = words::Id)]
    probe: ServiceId,
    /// Whose, where it is a child's, as in `checker/disk`.
    #[schema(value_type = Option<words::Key>)]
    child: Option<String>,
    /// Whether it runs.
    run: Option<bool>,
    /// Time between two looks, `1s` to `1h`.
    #[schema(value_type = Option<words::Duration>)]
    interval: Option<String>,
    /// How long a look may take, `50ms` to `60s`.
    #[schema(value_type = Option<words::Duration>)]
    timeout: Option<String>,
    /// Good looks in a row that make it healthy, 1 to 100.
    rise: Option<u32>,
    /// Bad looks in a row that make it unhealthy, 1 to 100.
    fall: Option<u32>,
}

/// The settings of a sidecar.
#[derive(Debug, Serialize, ToSchema)]
struct SettingsView {
    /// Whose, as `kind/id`.
    #[schema(value_type = words::Key)]
    service: String,
    /// `none`, `pending`, `applied`, `refused` or `unsupported`.
    #[schema(value_type = words::SettingsStanding)]
    state: &'static str,
    /// Since when.
    since: Option<Time>,
    /// Why, where there is something to say: the sidecar's own words for a refusal.
    why: Option<String>,
    /// The number of what is wanted; it rises with each change, and 0 = nothing ever was.
    revision: u64,
    /// What is wanted; `null` = nothing.
    wanted: Option<WantedView>,
    /// What its sidecar last said of its host; `null` = it has not.
    in_force: Option<InForceView>,
    /// The pace that it is granted.
    pace: PaceView,
}

/// What is wanted of a sidecar.
#[derive(Debug, Serialize, ToSchema)]
struct WantedView {
    /// Milliseconds between two heartbeats, where not as for everybody.
    interval_ms: Option<u32>,
    /// Milliseconds that one heartbeat is good for, where that was said.
    ttl_ms: Option<u32>,
    /// How single probes are to run.
    probes: Vec<TuningView>,
    /// Who set it.
    set_by: String,
    /// When.
    set_at: Time,
}

/// How one probe is to run.
#[derive(Debug, Serialize, ToSchema)]
struct TuningView {
    /// Its name.
    probe: String,
    /// Whose, where it is a child's.
    child: Option<String>,
    /// Whether it runs.
    run: Option<bool>,
    /// Milliseconds between two looks.
    interval_ms: Option<u32>,
    /// Milliseconds that a look may take.
    timeout_ms: Option<u32>,
    /// Good looks in a row.
    rise: Option<u32>,
    /// Bad looks in a row.
    fall: Option<u32>,
}

/// What a sidecar said of its host.
#[derive(Debug, Serialize, ToSchema)]
struct InForceView {
    /// The number of the settings in force; 0 = the host's files alone.
    revision: u64,
    /// The last ones that it did not take, where they are newer.
    refused: Option<RefusedView>,
    /// Its probes as they run.
    probes: Vec<ProbeView>,
    /// How many more there are.
    more: u32,
    /// When it said so first.
    reported_at: Time,
}

/// Settings that a sidecar did not take.
#[derive(Debug, Serialize, ToSchema)]
struct RefusedView {
    /// Which.
    revision: u64,
    /// Why, in its words.
    why: String,
}

/// One probe as it runs.
#[derive(Debug, Serialize, ToSchema)]
struct ProbeView {
    /// Its name.
    probe: String,
    /// Whose, where it is a child's.
    child: Option<String>,
    /// Its type.
    r#type: String,
    /// Whether the host lets it be tuned from here.
    allowed: bool,
    /// Whether it runs.
    runs: bool,
    /// Milliseconds between two looks.
    interval_ms: u32,
    /// Milliseconds that a look may take.
    timeout_ms: u32,
    /// Good looks in a row that make it healthy.
    rise: u32,
    /// Bad looks in a row that make it unhealthy.
    fall: u32,
}

/// A granted pace.
#[derive(Debug, Serialize, ToSchema)]
struct PaceView {
    /// Milliseconds between two heartbeats.
    interval_ms: u32,
    /// Milliseconds that one heartbeat is good for.
    ttl_ms: u32,
}

const REFUSALS: &[ProblemCode] = &[
    ProblemCode::UnknownService,
    ProblemCode::Deleted,
    ProblemCode::NoSidecar,
    ProblemCode::UnknownProbe,
    ProblemCode::ProbeNotAllowed,
];

pub(super) fn of_kind(routes: Routes, kind: Kind) -> Routes {
    let path = format!("{ROOT}/{}/{{id}}/settings", kind.plural());
    let whose = |operation: Operation| operation.scoped().path::<words::Id>("id", "The service");
    let look = whose(Operation::get(&path, Permission::Read, &format!("get_{kind}_settings")))
        .about("Settings of a sidecar: what is wanted, what is in force, and its probes as they run")
        .more(TAG)
        .tagged()
        .answer::<SettingsView>(200, "The settings")
        .gives(&[ProblemCode::UnknownService]);
    let set = whose(Operation::put(&path, Permission::Operate, &format!("set_{kind}_settings")))
        .about("Replaces what is wanted of a sidecar")
        .more(
            "A connected sidecar is told at once, any other with its next greeting. What it makes of it is in `state`: \
             its host's files say which probes may be changed from here, and nothing can name a command, a path or a \
             target. The pace holds for a sidecar that knows no settings, too; it is granted with the next heartbeat.",
        )
        .body::<SettingsBody>()
        .matches()
        .answer::<SettingsView>(200, "As they are now")
        .gives(REFUSALS);
    let reset = whose(Operation::delete(&path, Permission::Operate, &format!("reset_{kind}_settings")))
        .about("Takes everything back that was wanted of a sidecar: its host's own files alone count again")
        .matches()
        .answer::<SettingsView>(200, "As they are now")
        .gives(REFUSALS);
    routes
        .add(look, move |call: Call, id: Id| async move { shown(&call, &ServiceKey::new(kind, id.0)) })
        .add(set, move |call: Call, id: Id, body: Json<SettingsBody>| async move {
            let wish = body.0.wish()?;
            change(&call, ServiceKey::new(kind, id.0), wish).await
        })
        .add(reset, move |call: Call, id: Id| async move {
            change(&call, ServiceKey::new(kind, id.0), Wish::default()).await
        })
}

async fn change(call: &Call, key: ServiceKey, wish: Wish) -> Result<Tagged<SettingsView>, Problem> {
    call.find(&key)?;
    let (everybody, scope) = (call.state.registry.pace().0, call.scope().clone());
    let request = ChangeSettings { key: key.clone(), wish, everybody, scope, by: call.by() };
    call.change(seq_of(&key), request).await?;
    shown(call, &key)
}

fn shown(call: &Call, key: &ServiceKey) -> Result<Tagged<SettingsView>, Problem> {
    let seen = call.find(key)?;
    Ok(call.tagged(seen.entry.row.seq, SettingsView::of(call, &seen)))
}

/// A span in milliseconds; what it may be is the registry's affair.
fn span(field: &str, text: Option<&str>) -> Result<Option<u32>, Problem> {
    let problem = |why: String| SettingsProblem::Field { field: field.into(), why };
    let Some(text) = text else { return Ok(None) };
    let time = duration::parse(text).map_err(|error| crate::registry::Refusal::from(problem(error.to_string())))?;
    Ok(Some(u32::try_from(Duration::as_millis(&time)).unwrap_or(u32::MAX)))
}

impl SettingsBody {
    fn wish(self) -> Result<Wish, Problem> {
        let mut probes = Vec::new();
        for (n, body) in self.probes.into_iter().enumerate() {
            let child = body.child.map(|child| {
                child.parse().map_err(|error: rollcall_common::id::NameError| {
                    let field = format!("probes[{n}].child");
                    crate::registry::Refusal::from(SettingsProblem::Field { field, why: error.to_string() })
                })
            });
            probes.push(Tuning {
                child: child.transpose()?,
                probe: body.probe,
                run: body.run,
                interval_ms: span(&format!("probes[{n}].interval"), body.interval.as_deref())?,
                timeout_ms: span(&format!("probes[{n}].timeout"), body.timeout.as_deref())?,
                rise: body.rise,
                fall: body.fall,
            });
        }
        Ok(Wish {
            interval_ms: span("interval", self.interval.as_deref())?,
            ttl_ms: span("ttl", self.ttl.as_deref())?,
            probes,
        })
    }
}

impl SettingsView {
    fn of(call: &Call, seen: &Seen) -> Self {
        let row = &seen.entry.row;
        let granted = pace_of(row, call.state.registry.pace().0);
        let wanted = row.settings.as_deref();
        let reaches = |child: &Option<ServiceKey>| {
            call.state.registry.read(|roster| Reach::new(roster, call.scope()).of(child.as_ref()))
        };
        Self {
            service: row.key.to_string(),
            state: Standing::of(row).as_str(),
            since: Standing::since(row).map(Time),
            why: why(row).map(|why| why.to_string()),
            revision: wanted.map_or(0, |wanted| wanted.revision),
            wanted: wanted.filter(|wanted| !wanted.is_plain()).map(|wanted| WantedView {
                interval_ms: wanted.interval_ms,
                ttl_ms: wanted.ttl_ms,
                probes: wanted.probes.iter().filter(|one| reaches(&one.child)).map(TuningView::of).collect(),
                set_by: wanted.set_by.clone(),
                set_at: Time(wanted.set_at),
            }),
            in_force: row.reported.as_deref().filter(|reported| reported.supported).map(|reported| InForceView {
                revision: reported.revision,
                refused: reported
                    .refused
                    .as_ref()
                    .map(|one| RefusedView { revision: one.revision, why: one.why.to_string() }),
                probes: reported.probes.iter().filter(|one| reaches(&one.child)).map(ProbeView::of).collect(),
                more: reported.more,
                reported_at: Time(reported.at),
            }),
            pace: PaceView { interval_ms: granted.interval_ms, ttl_ms: granted.ttl_ms },
        }
    }
}

impl TuningView {
    fn of(one: &Tuning) -> Self {
        Self {
            probe: one.probe.to_string(),
            child: one.child.as_ref().map(ToString::to_string),
            run: one.run,
            interval_ms: one.interval_ms,
            timeout_ms: one.timeout_ms,
            rise: one.rise,
            fall: one.fall,
        }
    }
}

impl ProbeView {
    fn of(one: &ProbeState) -> Self {
        Self {
            probe: one.probe.to_string(),
            child: one.child.as_ref().map(ToString::to_string),
            r#type: one.sort.to_string(),
            allowed: one.allowed,
            runs: one.runs,
            interval_ms: one.interval_ms,
            timeout_ms: one.timeout_ms,
            rise: one.rise,
            fall: one.fall,
        }
    }
}

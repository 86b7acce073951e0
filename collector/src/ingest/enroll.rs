//! An enrollment or rejoin connection: one request, one answer.
//!
//! Nothing about a token is told before its secret is proven: until then every refusal is `DENIED`, and
//! costs the same.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use rollcall_common::{
    code::Code,
    id::{ServiceId, ServiceKey, random},
    time::Timestamp,
    token::TokenId,
    wire::Transport,
    wire::message::{Down, Enroll, Enrolled, Refused, Rejoin, Up},
};
use serde_json::json;
use tracing::Instrument;

use super::{
    CHANGE_WITHIN, Context, Unheard,
    beats::{certificate, refused},
    stream::{Ended, Stream},
};
use crate::{
    admission::Lane,
    ca::{Ca, verify_proof},
    registry::{
        Notice, Refusal,
        identities::{self, Granted},
        knocks::{Knock, is_kept},
        services::By,
    },
    store::rows::{Approval, Door, TokenRow, Why},
};

/// How long a peer gets to take its answer and leave.
const LEAVE_WITHIN: Duration = Duration::from_secs(5);

/// Serves one request.
pub(super) async fn serve(context: Arc<Context>, mut stream: Stream, unheard: Unheard) {
    let from = stream.remote();
    let span = tracing::info_span!("enroll", %from);
    async {
        let (code, wait) = match answer(&context, &mut stream, from, unheard).await {
            // Over TCP it was waited for already until it has read its answer, and a descriptor is not held for more.
            Ok(()) if stream.transport() == Transport::Tcp => return,
            // The peer closes when it has read its answer; one that does not is closed.
            Ok(()) => return stream.part(LEAVE_WITHIN).await,
            Err(Ended::Gone) => return,
            Err(Ended::Broke(code)) => (code, Duration::ZERO),
            Err(Ended::Later(wait)) => (Code::Busy, wait),
        };
        context.count_refusal(code);
        stream.bye(code, wait).await;
    }
    .instrument(span)
    .await;
}

async fn answer(context: &Context, stream: &mut Stream, from: SocketAddr, unheard: Unheard) -> Result<(), Ended> {
    let first = context.unless_draining(stream.first()).await?;
    // Over TCP it holds a descriptor, and its place among those who are not greeted, until it is over.
    let _unheard = Some(unheard).filter(|_| stream.transport() == Transport::Tcp);
    let granted = match first {
        Up::Enroll(asked) => enroll(context, stream, from, *asked).await,
        Up::Rejoin(asked) => rejoin(context, stream, from, asked).await,
        Up::Hello(_)
        | Up::Beat(_)
        | Up::Health(_)
        | Up::Facts(_)
        | Up::Renew(_)
        | Up::Bye(_)
        | Up::Children(_)
        | Up::ChildrenGone(_)
        | Up::Settings(_)
        | Up::About(_)
        | Up::Progress(_) => return Err(Ended::Broke(Code::Protocol)),
    };
    let reply = match granted {
        Ok(granted) => Down::Enrolled(Box::new(enrolled(context, granted))),
        Err(refusal) => {
            context.count_refusal(refusal.code);
            tracing::info!(code = %refusal.code, "refused");
            Down::Refused(refusal)
        }
    };
    stream.send(&reply).await?;
    stream.finish().await;
    Ok(())
}

async fn enroll(context: &Context, stream: &Stream, from: SocketAddr, asked: Enroll) -> Result<Granted, Refused> {
    let refuse = |code| Err(refused(context, code));
    let now = context.registry.now();
    if let Err(wait) = context.lanes(|lanes| lanes.may_prove(from.ip(), now.boot)) {
        context.registry.metrics().admit("enroll", "refused");
        return Err(busy(context, wait));
    }
    if !context.registry.read(|roster| identities::proves(roster, asked.token, &asked.secret)) {
        context.lanes(|lanes| lanes.failed(from.ip(), now.boot));
        let known = context.registry.read(|roster| roster.token(asked.token).is_some());
        let why = if known { Why::WrongSecret } else { Why::UnknownToken };
        context.knocked(Knock { proven: false, token: known.then_some(asked.token), ..knock(&asked, why, from) });
        return refuse(Code::Denied);
    }
    // Only a proven token takes a place in the lane, so that garbage starves nobody.
    if let Err(wait) = context.asked("enroll", context.lanes(|lanes| lanes.admit(Lane::Enroll, now.boot))) {
        return Err(busy(context, wait));
    }
    let Ok(csr) = Ca::read_csr(&asked.csr.0) else {
        context.knocked(knock(&asked, Why::Code(Code::CsrInvalid), from));
        return refuse(Code::CsrInvalid);
    };
    let Some(exporter) = stream.exporter() else { return refuse(Code::Internal) };
    if !verify_proof(csr.spki(), &exporter, &asked.csr.0, &asked.proof.0) {
        // Somebody else's connection, or somebody else's key.
        context.knocked(knock(&asked, Why::Proof, from));
        return refuse(Code::Denied);
    }
    let Some(fresh_id) = fresh_id(now.wall) else { return refuse(Code::Internal) };
    let token = asked.token;
    let claimed = knock(&asked, Why::Address, from);
    let request = identities::Enroll {
        token,
        csr,
        kind: asked.kind,
        parent: asked.parent,
        id: asked.id,
        fresh_id,
        checker_kind: asked.checker_kind,
        labels: asked.labels,
        metadata: asked.metadata,
        from: from.ip().to_canonical(),
        ca: Arc::clone(&context.ca),
    };
    let manual = |row: &Arc<TokenRow>| row.policy.approval == Approval::Manual;
    if context.registry.read(|roster| roster.token(token).is_some_and(manual)) {
        match asked_for_approval(context, request.clone()).await {
            Ok(None) => {}
            Ok(Some(pause)) => {
                let retry_after_ms = u32::try_from(pause.as_millis()).unwrap_or(u32::MAX);
                return Err(Refused { retry_after_ms, ..refused(context, Code::PendingApproval) });
            }
            Err(refusal) => {
                refused_proven(context, token, from, &refusal, claimed);
                return Err(refusal);
            }
        }
    }
    let granted = ask(context, request).await;
    match &granted {
        Ok(granted) => {
            context.registry.metrics().enrolled.inc();
            tracing::info!(service = %granted.service, %token, "enrolled");
        }
        Err(refusal) => refused_proven(context, token, from, refusal, claimed),
    }
    granted
}

/// The secret was right, so somebody holds this token: worth a knock, and the trail, with the true reason.
fn refused_proven(context: &Context, token: TokenId, from: SocketAddr, refusal: &Refused, claimed: Knock) {
    if is_kept(refusal.code) {
        // Past the secret and the proof, the one thing that is denied is the address.
        let why = if refusal.code == Code::Denied { Why::Address } else { Why::Code(refusal.code) };
        context.knocked(Knock { why, ..claimed });
    }
    // A fleet that waits for its parent, for an operator or for us would fill the trail; the metric counts it.
    if comes_again(refusal.code) {
        return;
    }
    let action = if refusal.code == Code::TokenExhausted { "token.reuse" } else { "token.refused" };
    let by = By { actor: format!("token:{token}"), request_id: None };
    let details = [("code", json!(refusal.code.as_str())), ("from", json!(from.ip().to_string()))];
    let draft = by.did(context.registry.now().wall, action, format!("token:{token}"), details);
    context.registry.tell(Notice::Audit(Box::new(draft)));
}

/// What was claimed, without the secret, as a knock of somebody who has proven the token.
fn knock(asked: &Enroll, why: Why, from: SocketAddr) -> Knock {
    Knock {
        proven: true,
        door: Door::Enroll,
        why,
        token: Some(asked.token),
        kind: Some(asked.kind),
        service: asked.id.clone(),
        parent: asked.parent.clone(),
        from: from.ip(),
    }
}

async fn asked_for_approval(context: &Context, request: identities::Enroll) -> Result<Option<Duration>, Refused> {
    let asked = context.registry.ask(identities::AskApproval(request));
    let answer = tokio::time::timeout(CHANGE_WITHIN, asked).await;
    let answer = answer.unwrap_or(Err(Refusal::Wire(Code::StoreUnavailable)));
    answer.map_err(|refusal| refused(context, refusal.code()))
}

async fn rejoin(context: &Context, stream: &Stream, from: SocketAddr, asked: Rejoin) -> Result<Granted, Refused> {
    let refuse = |code| Err(refused(context, code));
    let now = context.registry.now();
    let admitted =
        context.lanes(|lanes| lanes.may_prove(from.ip(), now.boot).and_then(|()| lanes.admit(Lane::Rejoin, now.boot)));
    if let Err(wait) = context.asked("rejoin", admitted) {
        return Err(busy(context, wait));
    }
    let Some(exporter) = stream.exporter() else { return refuse(Code::Internal) };
    let bound = context.registry.read(|roster| roster.get(&asked.service).and_then(|entry| entry.identity.clone()));
    let certs = bound.iter().flat_map(|bound| std::iter::once(&bound.current).chain(&bound.pending));
    let signer = { certs }.find(|cert| verify_proof(&cert.spki, &exporter, &asked.csr.0, &asked.proof.0));
    let Some(signer) = signer else {
        // Whether the service exists is told to nobody who cannot sign for it.
        context.lanes(|lanes| lanes.failed(from.ip(), now.boot));
        context.knocked(Knock { proven: false, ..back(&asked.service, Code::RejoinKey, from) });
        return refuse(Code::RejoinKey);
    };
    let Ok(csr) = Ca::read_csr(&asked.csr.0) else { return refuse(Code::CsrInvalid) };
    let (ended, window) = (signer.not_after, context.ca.leaf_ttl() / 2);
    let service = asked.service.clone();
    let request = identities::Rejoin {
        service: asked.service,
        csr,
        signed_by: Some(signer.key),
        blind_since_end: context.registry.blind_within(ended, now.wall),
        // An ordinary restart leaves time enough to renew; a tenth of the window is an outage.
        outage_was_ours: context.registry.blind_within(ended.before(window), ended) >= window / 10,
        from: from.ip().to_canonical(),
        ca: Arc::clone(&context.ca),
    };
    let granted = ask(context, request).await;
    match &granted {
        Ok(granted) => {
            context.registry.metrics().rejoined.inc();
            tracing::info!(service = %granted.service, "rejoined");
        }
        Err(refusal) if is_kept(refusal.code) => context.knocked(back(&service, refusal.code, from)),
        Err(_) => {}
    }
    granted
}

/// A service that wants back in, proven by its bound key.
fn back(service: &ServiceKey, code: Code, from: SocketAddr) -> Knock {
    Knock {
        proven: true,
        door: Door::Rejoin,
        why: Why::Code(code),
        token: None,
        kind: Some(service.kind),
        service: Some(service.id.clone()),
        parent: None,
        from: from.ip(),
    }
}

async fn ask<R>(context: &Context, request: R) -> Result<Granted, Refused>
where
    R: crate::registry::Request<Answer = Granted>,
{
    let asked = tokio::time::timeout(CHANGE_WITHIN, context.registry.ask(request)).await;
    // A change that commits after all is found again by the same key.
    let answer = asked.unwrap_or(Err(Refusal::Wire(Code::StoreUnavailable)));
    answer.map_err(|refusal| {
        tracing::info!(%refusal, "not granted");
        refused(context, refusal.code())
    })
}

/// Whether a refusal is about us or about the order in which hosts come up, not about the token.
fn comes_again(code: Code) -> bool {
    [Code::Busy, Code::StoreUnavailable, Code::Internal, Code::Draining, Code::ParentUnknown, Code::PendingApproval]
        .contains(&code)
}

fn busy(context: &Context, wait: Duration) -> Refused {
    let retry_after_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX).max(1);
    Refused { retry_after_ms, ..refused(context, Code::Busy) }
}

fn enrolled(context: &Context, granted: Granted) -> Enrolled {
    Enrolled {
        service: granted.service.clone(),
        identity: certificate(&context.ca, granted),
        addresses: (**context.addresses.load()).clone(),
        pace: context.registry.pace().0.into(),
        server_time: context.registry.now().wall,
    }
}

/// An id for tokens that assign one: a ULID, in lower case.
fn fresh_id(now: Timestamp) -> Option<ServiceId> {
    let chance: [u8; 16] = random().ok()?;
    let ms = u64::try_from(now.0).unwrap_or(0);
    let ulid = ulid::Ulid::from_parts(ms, u128::from_be_bytes(chance));
    ServiceId::new(&ulid.to_string().to_ascii_lowercase()).ok()
}

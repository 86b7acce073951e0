//! Attacks on onboarding tokens: T1 to T9, T11 to T14, T16.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::{StreamExt as _, stream};
use rollcall_common::{
    code::Code,
    id::Kind,
    time::{Clock as _, SystemClock},
    token::{Secret, Token, TokenId},
    wire::{
        codec::encode,
        message::{Down, Up},
    },
};
use rollcall_tests::{
    peer::{Answer, Ask, Key, Phone, Puppet, SOON, answer_of, dial_to_enroll, enroll, enrollment},
    until::{same, until},
    world::{self, Plan, Policy, World},
};
use serde_json::json;

use super::scene::{Registered, refused, refused_from};

/// T1
#[tokio::test]
async fn a_used_token_gives_nothing_to_another_key() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let phone = Phone::new()?;
        let token = world.token(Policy::prefix(Kind::Poller, "p")).await?;
        enroll(&phone, world.quic(), &token, &Ask::poller("p1")?).await?.identity()?;
        refused(world, &token, &Ask::poller("p2")?, Code::TokenExhausted).await?;
        refused(world, &token, &Ask::poller("p1")?, Code::TokenExhausted).await?;
        let event = world.api().wait_audit("token.reuse", &format!("token:{}", token.id)).await?;
        same("the evidence", &event["details"]["from"], &json!("127.0.0.1"))
    })
    .await
}

/// T2
#[tokio::test]
async fn a_lost_reply_costs_no_use() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let phone = Phone::new()?;
        let token = world.token(Policy::assigned(Kind::Poller)).await?;
        let ask = Ask { id: None, ..Ask::poller("any")? };
        let first = enroll(&phone, world.quic(), &token, &ask).await?.identity()?;
        let second = enroll(&phone, world.quic(), &token, &ask).await?.identity()?;
        same("the identity", &second.service, &first.service)?;
        same("uses", &world.api().token(token.id).await?["uses"], &json!(1))?;
        for identity in [second, first] {
            // The reply that arrived is as good as the one that was lost, as long as neither was used: what is
            // used first is the identity's from then on.
            let live = Puppet::new(identity)?.dial(&phone, world.quic()).await?;
            if let Ok(mut live) = live {
                live.beat().await?;
                return world.api().wait_alive(&first_name(world).await?).await;
            }
        }
        bail!("neither certificate is accepted")
    })
    .await
}

async fn first_name(world: &World) -> Result<String> {
    let pollers = world.api().list("pollers").await?;
    let id = pollers.first().and_then(|poller| poller["id"].as_str()).context("no poller is registered")?;
    Ok(format!("poller/{id}"))
}

/// T3
#[tokio::test]
async fn parallel_enrollments_share_no_use() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        for (prefix, uses) in [("one-", 1), ("three-", 3)] {
            let token = world.token(Policy::prefix(Kind::Poller, prefix).uses(uses)).await?;
            // An address that is refused so often is slowed down: each batch has its own.
            let host = u8::try_from(uses)?;
            let (phone, to) = (Phone::on([127, 0, 1, host].into())?, world.quic());
            let (phone, token) = (&phone, &token);
            let answers: Vec<Result<Answer>> = stream::iter(0..50)
                .map(|n| async move { enroll(phone, to, token, &Ask::poller(&format!("{prefix}{n}"))?).await })
                .buffer_unordered(50)
                .collect()
                .await;
            let mut granted = 0;
            for answer in answers {
                match answer? {
                    Answer::Identity(_) => granted += 1,
                    Answer::Refused(refused) => same("the code", &refused.code, &Code::TokenExhausted)?,
                    Answer::Ended(ending) => bail!("ended with {ending:?}"),
                }
            }
            same("identities given", &granted, &uses)?;
            same("uses", &world.api().token(token.id).await?["uses"], &json!(uses))?;
            let pollers = world.api().list("pollers").await?;
            let ours = pollers.iter().filter(|poller| poller["id"].as_str().is_some_and(|id| id.starts_with(prefix)));
            same("pollers registered", &ours.count(), &usize::try_from(uses)?)?;
        }
        Ok(())
    })
    .await
}

/// T4: by the collector's clock, also when it ends between the handshake and the request.
#[tokio::test]
async fn an_expired_token_is_told_so() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let token = world.token(Policy::fixed(Kind::Poller, "p").for_time(Duration::from_secs(2))).await?;
        let phone = Phone::new()?;
        let mut early = dial_to_enroll(&phone, world.quic(), &token).await?;
        until(SOON, "the token ends", async || {
            same("the state", &world.api().token(token.id).await?["state"], &json!("expired"))
        })
        .await?;
        let ask = Ask::poller("p")?;
        refused(world, &token, &ask, Code::TokenExpired).await?;
        let enroll = enrollment(&early, &token, &ask)?;
        early.say(&Up::Enroll(Box::new(enroll))).await?;
        let refusal = answer_of(&mut early, &ask.key, &token.trust_domain).await?.refusal()?;
        same("the code", &refusal.code, &Code::TokenExpired)?;
        same("pollers", &world.api().list("pollers").await?.len(), &0)?;
        world.api().wait_audit("token.refused", &format!("token:{}", token.id)).await.map(drop)
    })
    .await
}

/// T5
#[tokio::test]
async fn only_who_knows_the_secret_learns_why_a_token_does_not_pass() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let early = Policy::fixed(Kind::Poller, "a").begins_in(Duration::from_secs(600));
        let early = world.token(early.for_time(Duration::from_secs(1_200))).await?;
        let revoked = world.token(Policy::fixed(Kind::Poller, "b")).await?;
        world.api().revoke_token(revoked.id).await?;
        for (token, id, code) in [(early, "a", Code::TokenNotYetValid), (revoked, "b", Code::TokenRevoked)] {
            let mut ask = Ask::poller(id)?;
            refused(world, &token, &ask, code).await?;
            if code == Code::TokenRevoked {
                // Whoever comes too early comes again; whoever holds a revoked token is worth the trail.
                world.api().wait_audit("token.refused", &format!("token:{}", token.id)).await?;
            }
            ask.secret = Some(off_by_one_bit(&token)?);
            refused(world, &token, &ask, Code::Denied).await?;
        }
        Ok(())
    })
    .await
}

/// T6
#[tokio::test]
async fn a_token_of_another_kind_is_refused_and_not_burned() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let phone = Phone::new()?;
        world.enroll_poller(&phone, "p").await?;
        let token = world.token(Policy::fixed(Kind::Agent, "a").under("p")).await?;
        refused(world, &token, &Ask::new(Kind::Checker, "a", Some("p"))?, Code::KindMismatch).await?;
        refused(world, &token, &Ask::poller("a")?, Code::KindMismatch).await?;
        refused(world, &token, &Ask::new(Kind::Instance, "a", None)?, Code::KindMismatch).await?;
        let agent = enroll(&phone, world.quic(), &token, &Ask::new(Kind::Agent, "a", Some("p"))?).await?.identity()?;
        same("the identity", &agent.service.to_string(), &"agent/a".to_owned())
    })
    .await
}

/// T7
#[tokio::test]
async fn a_parent_that_does_not_fit_is_refused_and_burns_nothing() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let phone = Phone::new()?;
        for id in ["p", "other", "barred"] {
            world.enroll_poller(&phone, id).await?;
        }
        world.api().act("poller/barred", "revoke").await?;
        let bound = world.token(Policy::fixed(Kind::Agent, "a").under("p")).await?;
        refused(world, &bound, &Ask::new(Kind::Agent, "a", Some("other"))?, Code::ParentOther).await?;
        let agent = enroll(&phone, world.quic(), &bound, &Ask::new(Kind::Agent, "a", None)?).await?.identity()?;
        same("the identity", &agent.service.to_string(), &"agent/a".to_owned())?;

        let free = world.token(Policy::prefix(Kind::Agent, "b")).await?;
        refused(world, &free, &Ask::new(Kind::Agent, "b", None)?, Code::ParentUnknown).await?;
        refused(world, &free, &Ask::new(Kind::Agent, "b", Some("nobody"))?, Code::ParentUnknown).await?;
        refused(world, &free, &Ask::new(Kind::Agent, "b", Some("a"))?, Code::ParentKind).await?;
        refused(world, &free, &Ask::new(Kind::Agent, "b", Some("barred"))?, Code::ParentBarred).await?;
        enroll(&phone, world.quic(), &free, &Ask::new(Kind::Agent, "b", Some("p"))?).await?.identity()?;

        let orphan = world.token(Policy::prefix(Kind::Poller, "c")).await?;
        refused(world, &orphan, &Ask::new(Kind::Poller, "c", Some("p"))?, Code::ParentKind).await?;
        enroll(&phone, world.quic(), &orphan, &Ask::poller("c")?).await?.identity()?;
        Ok(())
    })
    .await
}

/// T8
#[tokio::test]
async fn an_id_outside_the_rule_or_taken_is_refused_and_its_holder_undisturbed() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let phone = Phone::new()?;
        let (puppet, mut live) = world.live_poller(&phone, "edge-1").await?;
        let fixed = world.token(Policy::fixed(Kind::Poller, "edge-2")).await?;
        refused(world, &fixed, &Ask::poller("edge-3")?, Code::IdRule).await?;
        let prefix = world.token(Policy::prefix(Kind::Poller, "edge-")).await?;
        refused(world, &prefix, &Ask::poller("core-1")?, Code::IdRule).await?;
        refused(world, &prefix, &Ask { id: None, ..Ask::poller("edge-9")? }, Code::IdRule).await?;
        refused(world, &prefix, &Ask::poller("edge-1")?, Code::IdTaken).await?;
        let assigned = world.token(Policy::assigned(Kind::Poller)).await?;
        refused(world, &assigned, &Ask::poller("edge-4")?, Code::IdRule).await?;
        // The holder keeps its session and its certificate.
        live.beat().await?;
        drop(live);
        puppet.clone().live(&phone, world.quic()).await?.beat().await?;
        enroll(&phone, world.quic(), &prefix, &Ask::poller("edge-5")?).await?.identity().map(drop)
    })
    .await
}

/// T9: a wrong secret and an unknown token cannot be told apart.
#[tokio::test]
async fn a_wrong_secret_looks_like_an_unknown_token() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let token = world.token(Policy::fixed(Kind::Poller, "p")).await?;
        let mut guess = Ask::poller("p")?;
        guess.secret = Some(off_by_one_bit(&token)?);
        let wrong = refused(world, &token, &guess, Code::Denied).await?;
        let stranger = Token { id: TokenId::random()?, ..token.clone() };
        let unknown = refused(world, &stranger, &Ask::poller("p")?, Code::Denied).await?;
        same("retry_after", &unknown.retry_after_ms, &wrong.retry_after_ms)?;
        let size = |refused| encode(&Down::Refused(refused)).map(|frame| frame.len());
        same("the size of the answer", &size(unknown)?, &size(wrong)?)?;
        // Everything else about the request is looked at only after the secret.
        guess.csr = Some(vec![0; 40]);
        guess.kind = Kind::Checker;
        refused(world, &token, &guess, Code::Denied).await?;
        enroll(&Phone::new()?, world.quic(), &token, &Ask::poller("p")?).await?.identity().map(drop)
    })
    .await
}

fn off_by_one_bit(token: &Token) -> Result<Secret> {
    let mut bytes = token_secret(token)?;
    bytes[31] ^= 1;
    Ok(Secret::from_bytes(bytes))
}

fn token_secret(token: &Token) -> Result<[u8; 32]> {
    let bytes = postcard::to_allocvec(&token.secret)?;
    bytes.try_into().map_err(|_| anyhow::anyhow!("a secret is 32 bytes"))
}

/// T11
#[tokio::test]
async fn a_stolen_store_holds_nothing_that_enrolls() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let unused = world.token(Policy::fixed(Kind::Poller, "p")).await?;
        let phone = Phone::new()?;
        world.enroll_poller(&phone, "q").await?;
        let state = world.state();
        let mut read = 0;
        for path in files_below(&state)? {
            if path.file_name().is_some_and(|name| name == "admin.credential") {
                continue;
            }
            let bytes = fs::read(&path)?;
            read += bytes.len();
            world.secrets().check(&bytes).with_context(|| path.display().to_string())?;
        }
        ensure!(read > 10_000, "only {read} bytes of store were found");
        // What is stored instead of the secret is no secret.
        let hash = Secret::from_bytes(unused.secret.hash(unused.id).0);
        refused(world, &unused, &Ask { secret: Some(hash), ..Ask::poller("p")? }, Code::Denied).await.map(drop)
    })
    .await
}

fn files_below(dir: &Path) -> Result<Vec<std::path::PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(files_below(&path)?)
        } else if path.is_file() {
            files.push(path)
        }
    }
    Ok(files)
}

/// T12
#[tokio::test]
async fn a_guesser_is_slowed_down_and_nobody_else() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let token = world.token(Policy::prefix(Kind::Poller, "p").uses(10)).await?;
        let (guesser, honest) = (Phone::on([127, 0, 0, 2].into())?, Phone::new()?);
        let (phone, to) = (&guesser, world.quic());
        let target = &token;
        let answers: Vec<Result<Code>> = stream::iter(0..150)
            .map(|_| async move {
                let ask = Ask { secret: Some(Secret::random()?), ..Ask::poller("p0")? };
                Ok(enroll(phone, to, target, &ask).await?.refusal()?.code)
            })
            .buffer_unordered(20)
            .collect()
            .await;
        let codes = answers.into_iter().collect::<Result<Vec<_>>>()?;
        let count = |code| codes.iter().filter(|seen| **seen == code).count();
        ensure!(count(Code::Busy) > 0, "never slowed down: {codes:?}");
        ensure!(count(Code::Busy) + count(Code::Denied) == codes.len(), "other answers too: {codes:?}");
        // The guesser's address is refused even with the right secret now; others are not.
        let refused = refused_from(&guesser, world, &token, &Ask::poller("p1")?, Code::Busy).await?;
        ensure!(refused.retry_after_ms > 0, "no time to come back is told");
        enroll(&honest, to, &token, &Ask::poller("p2")?).await?.identity().map(drop)
    })
    .await
}

/// T13: with the real sidecar; a token that is left in place is ignored once there is an identity.
#[tokio::test]
async fn a_restarted_sidecar_ignores_its_used_token() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let token = world.token_text(Policy::fixed(Kind::Poller, "p")).await?;
        let mut sidecar = world.sidecar("p", "kind = \"poller\"\nid = \"p\"")?;
        sidecar.give_token(&token)?;
        sidecar.start()?;
        world.api().wait_alive("poller/p").await?;
        let before = Registered::now(world.api()).await?;
        let (_, status) = sidecar.terminate().await?;
        ensure!(status.success(), "it ended with {status}");
        world.api().wait(SOON, "poller/p", "presence", "stopped").await?;
        sidecar.start()?;
        world.api().wait_alive("poller/p").await?;
        before.unchanged(world.api()).await?;
        ensure!(sidecar.token_file().exists(), "the token file is the administrator's");
        same("enrollments", &world.api().metric("rollcall_enrollments_total", "").await?, &1.0)?;
        same("refusals", &world.api().metric("rollcall_refusals_total", "").await?, &0.0)
    })
    .await
}

/// T14
#[tokio::test]
async fn a_source_outside_the_tokens_addresses_is_denied() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let token = world.token(Policy::fixed(Kind::Poller, "p").from("127.0.0.2/32")).await?;
        refused(world, &token, &Ask::poller("p")?, Code::Denied).await?;
        let allowed = Phone::on([127, 0, 0, 2].into())?;
        enroll(&allowed, world.quic(), &token, &Ask::poller("p")?).await?.identity().map(drop)
    })
    .await
}

/// T16
#[tokio::test]
async fn a_bad_request_burns_no_token() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let token = world.token(Policy::fixed(Kind::Poller, "p")).await?;
        let mut ask = Ask::poller("p")?;
        ask.csr = Some(b"no request".to_vec());
        refused(world, &token, &ask, Code::CsrInvalid).await?;
        ask.csr = None;
        ask.proof = Some(Key::generate()?.sign(b"something else")?);
        refused(world, &token, &ask, Code::Denied).await?;
        ask.proof = None;
        // A clock far off is told, never judged: enrollment goes by the collector's clock.
        ask.clock = Some(SystemClock.now().wall);
        enroll(&Phone::new()?, world.quic(), &token, &ask).await?.identity().map(drop)
    })
    .await
}

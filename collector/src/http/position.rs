//! Where the registry stands, as callers see it and as they demand it.
//!
//! A position is an epoch and a seq, written `EPOCH-SEQ`. The tag of something registered is the position of its
//! last change (`ETag: "2-41"`); what is only observed of it, like presence, moves no tag. `If-Match` lets a
//! change through only from a tag, `If-None-Match` spares a caller what it has, `min_seq` lets a read wait until it
//! sees what its caller knows to have happened. It owns their texts and their rules, not the rows.

use std::{fmt, str::FromStr, time::Duration};

use axum::{
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use rollcall_common::id::Seq;
use serde::Serialize;

use super::{
    error::{Problem, ProblemCode},
    extract::Query,
    openapi::words,
    routes::Param,
};
use crate::{
    registry::{Registry, expect::Expect},
    store::Position,
};

/// Tells a caller the seq that its change is part of.
pub(super) const SEQ: HeaderName = HeaderName::from_static("rollcall-seq");
/// Tells the epoch beside it.
pub(super) const EPOCH: HeaderName = HeaderName::from_static("rollcall-epoch");
const MIN_SEQ: HeaderName = HeaderName::from_static("rollcall-min-seq");
/// How long a read waits for what its caller knows.
const WAIT: Duration = Duration::from_secs(2);
/// Most tags in one header.
const MAX_TAGS: usize = 16;

/// The parameter of every read.
pub(super) const MIN_SEQ_PARAM: Param = Param::of::<words::At>(
    "min_seq",
    "Wait (2 s at most) until this seq is seen: a seq, or `EPOCH-SEQ` from an earlier answer",
);
/// The same as a header.
pub(super) const MIN_SEQ_HEADER: Param = Param::of::<words::At>("Rollcall-Min-Seq", "The same as `min_seq`");
/// The header of changes that can be bound to a tag.
pub(super) const IF_MATCH: Param =
    Param::of::<words::Tags>("If-Match", "Change only while the tag is one of these; `*` for any");
/// The header of details.
pub(super) const IF_NONE_MATCH: Param =
    Param::of::<words::Tags>("If-None-Match", "Answer 304 while the tag is one of these; `*` for any");

/// A position that a caller wrote; the epoch may be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct At {
    epoch: Option<u64>,
    seq: Seq,
}

impl FromStr for At {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        let number = |text: &str| text.parse::<u64>().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()));
        let read = match text.split_once('-') {
            Some((epoch, seq)) => {
                number(epoch).zip(number(seq)).map(|(epoch, seq)| Self { epoch: Some(epoch), seq: Seq(seq) })
            }
            None => number(text).map(|seq| Self { epoch: None, seq: Seq(seq) }),
        };
        read.ok_or_else(|| {
            Problem::new(ProblemCode::InvalidQuery, "min_seq is a seq, or EPOCH-SEQ, as in 41 or 2-41")
                .with("parameter", "min_seq")
        })
    }
}

/// Waits until the registry stands where a read demands it.
///
/// # Errors
/// [`ProblemCode::Behind`] after two seconds, [`ProblemCode::OtherEpoch`] where waiting would not help.
pub(super) async fn reached(registry: &Registry, query: &Query, headers: &HeaderMap) -> Result<(), Problem> {
    let header = headers.get(&MIN_SEQ).map(|value| value.to_str().unwrap_or_default());
    let Some(text) = query.get("min_seq").or(header) else { return Ok(()) };
    let wanted: At = text.parse()?;
    let stands = || registry.read(|roster| roster.position());
    let epoch = stands().epoch;
    if wanted.epoch.is_some_and(|wanted| wanted != epoch) {
        let detail = format!("this registry is in epoch {epoch}: positions of other epochs mean nothing here");
        return Err(told(Problem::new(ProblemCode::OtherEpoch, detail), stands()));
    }
    let mut watch = registry.feed().watch();
    let there = async { while stands().seq < wanted.seq && watch.changed().await.is_ok() {} };
    let _ = tokio::time::timeout(WAIT, there).await;
    if stands().seq < wanted.seq {
        let detail = format!("the registry has not come to seq {} within {} s", wanted.seq, WAIT.as_secs());
        return Err(told(Problem::new(ProblemCode::Behind, detail), stands()));
    }
    Ok(())
}

fn told(problem: Problem, at: Position) -> Problem {
    problem.with("seq", at.seq.0).with("epoch", at.epoch)
}

/// Reads a list of tags. Weak ones and those of others match nothing.
///
/// # Errors
/// [`ProblemCode::InvalidHead`] for what is no list of tags, or too long a one.
pub(super) fn expected(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Expect>, Problem> {
    let bad = || {
        let detail = format!("{name} holds * or at most {MAX_TAGS} tags in quotes, as in \"2-41\"");
        Problem::new(ProblemCode::InvalidHead, detail)
    };
    let mut tags = Vec::new();
    let mut any = false;
    let mut seen = 0;
    for value in headers.get_all(name) {
        for part in value.to_str().map_err(|_| bad())?.split(',').map(str::trim) {
            seen += 1;
            if part == "*" {
                any = true;
                continue;
            }
            let (weak, quoted) = part.strip_prefix("W/").map_or((false, part), |rest| (true, rest));
            let inner = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).ok_or_else(bad)?;
            if inner.contains('"') {
                return Err(bad());
            }
            if let Ok(At { epoch: Some(epoch), seq }) = inner.parse()
                && !weak
            {
                tags.push((epoch, seq));
            }
        }
    }
    match (seen, any) {
        (0, _) => Ok(None),
        (1, true) => Ok(Some(Expect::Any)),
        (_, true) => Err(bad()),
        (n, false) if n > MAX_TAGS => Err(bad()),
        (_, false) => Ok(Some(Expect::OneOf(tags))),
    }
}

/// Something registered on its way out, with its tag.
pub(super) struct Tagged<T> {
    /// The epoch that the seq is of.
    pub epoch: u64,
    /// The seq of its last change.
    pub seq: Seq,
    /// How it is shown.
    pub view: T,
}

impl<T: Serialize> IntoResponse for Tagged<T> {
    fn into_response(self) -> Response {
        let mut response = axum::Json(self.view).into_response();
        tag(&mut response, self.epoch, self.seq);
        response
    }
}

/// Sets the tag of an answer.
pub(super) fn tag(response: &mut Response, epoch: u64, seq: Seq) {
    set(response.headers_mut(), header::ETAG, format_args!("\"{epoch}-{seq}\""));
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: impl fmt::Display) {
    if let Ok(value) = HeaderValue::from_str(&value.to_string()) {
        headers.insert(name, value);
    }
}

/// Tells in the answer to a change where the registry stands with it.
pub(super) fn stamp(response: &mut Response, at: Position) {
    set(response.headers_mut(), SEQ, at.seq);
    set(response.headers_mut(), EPOCH, at.epoch);
}

/// Spares a caller what it has.
pub(super) fn spared(response: Response, expect: Option<&Expect>) -> Response {
    let text = response.headers().get(header::ETAG).and_then(|value| value.to_str().ok());
    let here = text.and_then(|text| text.trim_matches('"').parse::<At>().ok());
    let has = here.zip(expect).is_some_and(|(here, expect)| expect.admits(here.epoch.unwrap_or_default(), here.seq));
    if !has || response.status() != StatusCode::OK {
        return response;
    }
    let mut spared = StatusCode::NOT_MODIFIED.into_response();
    if let Some(tag) = response.headers().get(header::ETAG) {
        spared.headers_mut().insert(header::ETAG, tag.clone());
    }
    spared
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(all: &[&str]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for value in all {
            map.append(header::IF_MATCH, HeaderValue::from_str(value).unwrap());
        }
        map
    }

    #[test]
    fn tags_are_read_as_http_has_them() {
        let of = |all: &[&str]| expected(&headers(all), &header::IF_MATCH).ok();
        assert_eq!(of(&[]), Some(None));
        assert_eq!(of(&["*"]), Some(Some(Expect::Any)));
        assert_eq!(of(&["\"2-41\""]), Some(Some(Expect::OneOf(vec![(2, Seq(41))]))));
        assert_eq!(of(&["\"2-41\", \"2-40\""]), Some(Some(Expect::OneOf(vec![(2, Seq(41)), (2, Seq(40))]))));
        assert_eq!(of(&["\"2-41\"", "\"2-40\""]), Some(Some(Expect::OneOf(vec![(2, Seq(41)), (2, Seq(40))]))));
        // What is not ours, or weak, matches nothing; it is not an error.
        assert_eq!(of(&["W/\"2-41\", \"foreign\""]), Some(Some(Expect::OneOf(vec![]))));
        for bad in ["2-41", "\"2-41", "*, \"2-41\"", "\"a\"b\"", "", ","] {
            assert_eq!(of(&[bad]), None, "{bad}");
        }
        assert_eq!(of(&[&vec!["\"1-1\""; 17].join(",")]), None);
    }

    #[test]
    fn positions_are_read_strictly() {
        let read = |text: &str| text.parse::<At>().ok().map(|at| (at.epoch, at.seq.0));
        assert_eq!(read("41"), Some((None, 41)));
        assert_eq!(read("2-41"), Some((Some(2), 41)));
        for bad in ["", "-1", "2-", "-41", "+1", "2-41-1", "x", "99999999999999999999", "1 "] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}

//! What a body asks for, and what leaves.

use std::collections::BTreeMap;

use super::*;
use crate::store::suite::samples;

const NOW: Timestamp = Timestamp(1_800_000_000_000);

fn read(text: &str) -> PackageBody {
    serde_json::from_str(text).unwrap()
}

fn by() -> By {
    By { actor: "credential:x".into(), request_id: None }
}

#[test]
fn little_said_gives_one_host_a_day() {
    let body = read(r#"{"kind":"agent","id":"edge-17","parent":"site-3"}"#);
    let policy = body.policy(NOW).unwrap();
    assert_eq!((policy.max_uses, policy.rejoin_limit), (1, Some(5)));
    assert_eq!(policy.expires_at, NOW.after(std::time::Duration::from_secs(86_400)));
    let (register, settings) = body.registration(by()).unwrap();
    assert_eq!(register.key.to_string(), "agent/edge-17");
    assert_eq!(settings, crate::store::rows::PackageSettings::default());
}

#[test]
fn settings_are_checked_before_anything_is_made() {
    for (config, words) in [
        (r#"{"log_level":"loud"}"#, "config.log_level is one of error"),
        (r#"{"log_format":"xml"}"#, "config.log_format is one of text"),
        (r#"{"revoked_retry":"soon"}"#, "config.revoked_retry: "),
        (r#"{"revoked_retry":"2d"}"#, "between 1s and 1d"),
    ] {
        let body = read(&format!(r#"{{"kind":"poller","id":"p","config":{config}}}"#));
        let problem = body.registration(by()).unwrap_err();
        assert!(problem.detail().contains(words), "{}", problem.detail());
    }
    for text in [
        r#"{"kind":"poller"}"#,
        r#"{"kind":"poller","id":"p","config":{"interval":"1s"}}"#,
        r#"{"kind":"poller","id":"../p"}"#,
        r#"{"kind":"poller","id":"p","labels":{"A":"b"}}"#,
    ] {
        assert!(serde_json::from_str::<PackageBody>(text).is_err(), "{text}");
    }
}

#[test]
fn a_view_tells_time_and_no_secret() {
    let mut row = samples::package(2, "roof");
    let now = Timestamp(row.created_at.0 + 1_000);
    let shown = serde_json::to_value(PackageView::of(&row, now)).unwrap();
    assert_eq!(shown["status"], "delivered");
    assert!(shown["refetch_until"].is_string());
    assert!(shown.get("sealed").is_none() && shown.get("secret_hash").is_none());
    let expired = serde_json::to_value(PackageView::of(&row, row.expires_at)).unwrap();
    assert_eq!((&expired["status"], &expired["status_since"]), (&"expired".into(), &shown["expires_at"]));
    row.sealed = None;
    let wiped = serde_json::to_value(PackageView::of(&row, now)).unwrap();
    assert!(wiped["refetch_until"].is_null());
    let pairs: BTreeMap<String, String> = serde_json::from_value(shown["labels"].clone()).unwrap();
    assert_eq!(pairs.get("site").map(String::as_str), Some("north"));
}

#[test]
fn a_download_secret_comes_in_one_header() {
    let secret_of = PackageSecret::random(TokenId([1; 10])).unwrap();
    let value = || HeaderValue::from_str(&secret_of.reveal()).unwrap();
    let mut headers = HeaderMap::new();
    assert!(secret(&headers).is_none());
    headers.insert(SECRET_HEADER, value());
    assert_eq!(secret(&headers).unwrap().hash(), secret_of.hash());
    headers.append(SECRET_HEADER, value());
    assert!(secret(&headers).is_none(), "which of them?");
    headers.insert(SECRET_HEADER, HeaderValue::from_static("rollcall_pkg1_x"));
    assert!(secret(&headers).is_none());
}

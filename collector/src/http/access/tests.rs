//! Credentials, roles, hosts and the brake, without a server.

use std::{
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use axum::http::{HeaderMap, HeaderValue, header};
use rollcall_common::{
    time::{BootTime, Timestamp},
    token::{Credential, CredentialKind, SecretHash, TokenId},
};

use super::*;
use crate::{
    http::error::ProblemCode,
    registry::roster::Roster,
    scope::Scope,
    store::rows::{CredentialRow, Loaded},
};

const NOW: Timestamp = Timestamp(1_800_000_000_000);

fn row(credential: &Credential, role: &str) -> CredentialRow {
    CredentialRow::new(credential.id, credential.hash(), role, NOW)
}

fn caller(id: TokenId, role: Role) -> Caller {
    Caller {
        actor: format!("credential:{id}"),
        roles: role.into(),
        scope: Scope::everything(),
        via: Via::Credential(id),
        policy: None,
        ends: None,
    }
}

fn roster(row: CredentialRow) -> Roster {
    Roster::from_loaded(&Loaded { credentials: vec![row], ..Loaded::default() })
}

fn headers(value: &str) -> HeaderMap {
    HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap())])
}

/// H1: a credential comes in one header of one form.
#[test]
fn only_one_bearer_header_is_read() {
    let text = Credential::random(CredentialKind::ApiKey).unwrap().reveal().to_string();
    assert!(bearer(&headers(&format!("Bearer {text}"))).is_ok());
    assert!(bearer(&headers(&format!("bearer {text}"))).is_ok());
    for bad in [
        String::new(),
        "Bearer".into(),
        "Bearer ".into(),
        text.clone(),
        format!("Basic {text}"),
        format!("Bearer {text}x"),
        format!("Bearer {}", "x".repeat(8192)),
        format!("Bearer {}", text.to_uppercase()),
    ] {
        assert_eq!(bearer(&headers(&bad)).unwrap_err().code(), ProblemCode::Unauthenticated, "{bad}");
    }
    assert!(bearer(&HeaderMap::new()).unwrap().is_none());
    let mut twice = headers(&format!("Bearer {text}"));
    twice.append(header::AUTHORIZATION, HeaderValue::from_static("Bearer x"));
    assert!(bearer(&twice).is_err());
}

#[test]
fn a_credential_proves_its_secret_and_its_time() {
    let credential = Credential::random(CredentialKind::ApiKey).unwrap();
    let good = row(&credential, "viewer");
    let found = check(&roster(good.clone()), &credential, NOW).unwrap();
    assert_eq!(found, caller(credential.id, Role::Viewer));
    assert_eq!(found.by("r").actor, format!("credential:{}", credential.id));

    let other = Credential::random(CredentialKind::ApiKey).unwrap();
    let wrong = CredentialRow { hash: other.hash(), ..good.clone() };
    let expired = CredentialRow { expires_at: Some(NOW), ..good.clone() };
    let revoked = CredentialRow { revoked_at: Some(NOW), ..good.clone() };
    let zero = CredentialRow { hash: SecretHash([0; 32]), ..good.clone() };
    let odd = CredentialRow { role: "ADMIN".into(), ..good.clone() };
    let details: Vec<_> = [wrong, expired, revoked, zero, odd, row(&other, "admin")]
        .into_iter()
        .map(|row| check(&roster(row), &credential, NOW).unwrap_err().detail().to_owned())
        .collect();
    assert!(details.windows(2).all(|pair| pair[0] == pair[1]), "one answer for all: {details:?}");
    let later = CredentialRow { expires_at: Some(NOW.after(Duration::from_millis(1))), ..good };
    assert!(check(&roster(later), &credential, NOW).is_ok());
}

#[test]
fn the_bootstrap_word_is_an_administrator_and_no_other_word_escalates() {
    assert_eq!(Role::of_word("bootstrap"), Some(Role::Admin));
    for role in Role::ALL {
        assert_eq!(Role::of_word(role.as_str()), Some(role));
    }
    for word in ["", "ADMIN", "root", "viewer,admin", "Admin "] {
        assert_eq!(Role::of_word(word), None, "{word}");
    }
}

/// The matrix once more, written the other way round.
#[test]
fn each_permission_has_exactly_its_roles() {
    use Permission as P;
    use Role::{Admin, Enroller, Metrics, Operator, Viewer};
    for (permission, roles) in [
        (P::Open, &[Viewer, Operator, Admin, Metrics, Enroller][..]),
        (P::Know, &[Viewer, Operator, Admin, Metrics, Enroller]),
        (P::Scrape, &[Viewer, Operator, Admin, Metrics]),
        (P::Read, &[Viewer, Operator, Admin]),
        (P::Mint, &[Operator, Admin, Enroller]),
        (P::Operate, &[Operator, Admin]),
        (P::Administer, &[Admin]),
    ] {
        for role in Role::ALL {
            assert_eq!(role.may(permission), roles.contains(&role), "{role:?} {permission:?}");
            let caller = caller(TokenId([1; 10]), role);
            assert_eq!(caller.demand(permission).is_ok(), roles.contains(&role));
        }
    }
}

#[test]
fn failures_are_braked_by_address_and_forgiven() {
    let mut failures = Failures::default();
    let from = "192.0.2.7".parse().unwrap();
    let mapped = "::ffff:192.0.2.7".parse().unwrap();
    for _ in 0..brake::BURST {
        assert_eq!(failures.note(from, BootTime(1_000)), None);
    }
    assert_eq!(failures.note(mapped, BootTime(1_000)), Some(2));
    assert_eq!(failures.note("192.0.2.8".parse().unwrap(), BootTime(1_000)), None);
    assert_eq!(failures.note(from, BootTime(2_000)), None, "one came back");
    assert!(failures.note(from, BootTime(2_000)).is_some());
    assert_eq!(failures.note(from, BootTime(60_000)), None);
}

/// H18, H19: neither many addresses nor many failures make the table grow.
#[test]
fn the_brake_remembers_a_bounded_number_of_addresses() {
    let mut failures = Failures::default();
    let at = |n: u32| IpAddr::V4(n.into());
    for n in 0..20_000 {
        failures.note(at(n), BootTime(1_000));
    }
    assert!(failures.whole_at.len() <= brake::MAX_ADDRESSES + 1);
    assert!(failures.note(at(99_999), BootTime(1_000)).is_some(), "the rest share one allowance");
    assert_eq!(failures.note(at(99_999), BootTime(100_000)), None, "and time frees the table");
    let one_host = |n: u64| IpAddr::V6(Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(n)));
    let mut failures = Failures::default();
    for n in 0..100 {
        failures.note(one_host(n), BootTime(1_000));
    }
    assert_eq!(failures.whole_at.len(), 1);
}

/// H18: a name that an attacker points at 127.0.0.1 is not served.
#[test]
fn a_loopback_listener_serves_addresses_and_known_names() {
    let names = ["rollcall.example.net".to_owned()];
    for good in [
        "127.0.0.1",
        "127.0.0.1:7410",
        "localhost:1",
        "LOCALHOST",
        "[::1]",
        "[::1]:7410",
        "rollcall.example.net",
        "Rollcall.Example.Net:443",
    ] {
        assert!(host_allowed(good, &names), "{good}");
    }
    for bad in [
        "",
        "evil.example",
        "evil.example:7410",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "127.0.0.1:x",
        "127.0.0.1:7410:1",
        "[::1",
        "[::1]x",
        "[evil]",
        "user@127.0.0.1",
        "rollcall.example.net.",
    ] {
        assert!(!host_allowed(bad, &names), "{bad}");
    }
}

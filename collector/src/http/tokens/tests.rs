//! What a body asks a token to allow, and what it tells a sidecar to dial.

use super::*;

const NOW: Timestamp = Timestamp(1_800_000_000_000);

fn policy(text: &str) -> Result<TokenPolicy, Problem> {
    let body: CreateBody = serde_json::from_str(text).unwrap();
    policy_of(&body, NOW)
}

fn refused(text: &str) -> String {
    policy(text).unwrap_err().detail().to_owned()
}

#[test]
fn little_said_gives_a_single_use_of_one_hour() {
    let policy = policy(r#"{"kind":"poller"}"#).unwrap();
    assert_eq!(policy.id_rule, IdRule::Assigned);
    assert_eq!((policy.max_uses, policy.rejoin_limit), (1, Some(5)));
    assert_eq!(policy.not_before, NOW);
    assert_eq!(policy.expires_at, NOW.after(Duration::from_secs(3600)));
}

#[test]
fn every_field_is_taken() {
    let policy = policy(
        r#"{"kind":"checker","parent":"a","id_prefix":"snmp-","checker_kind":"snmp","max_uses":9,"ttl":"7d",
            "not_before":"2027-01-15T09:00:00Z","cidr_allow":["192.0.2.0/24"],"labels":{"site":"3"},
            "rejoin_limit":"unlimited","note":"n","local":true,"addresses":["c:1"]}"#,
    )
    .unwrap();
    assert_eq!(policy.id_rule, IdRule::Prefix("snmp-".into()));
    assert_eq!((policy.max_uses, policy.rejoin_limit), (9, None));
    assert_eq!(policy.not_before.to_string(), "2027-01-15T09:00:00.000Z");
    assert_eq!(policy.expires_at.since(policy.not_before), Duration::from_secs(7 * 86_400));
    assert_eq!(policy.cidr_allow.len(), 1);
    assert_eq!(policy.labels.get("site"), Some("3"));
}

#[test]
fn a_bulk_token_for_a_scaling_group() {
    let policy = policy(
        r#"{"kind":"agent","id_pattern":"edge-*","max_uses":500,"parent_rule":{"label":"site","parent":"poller-{}"},
            "ephemeral_after":"1h","approval":"manual","implicit_children":true}"#,
    )
    .unwrap();
    assert_eq!(policy.id_rule, IdRule::Pattern("edge-*".parse().unwrap()));
    assert_eq!(policy.parent_rule, Some("site=poller-{}".parse().unwrap()));
    assert_eq!((policy.ephemeral_after, policy.approval), (Some(3_600), Approval::Manual));
    assert!(policy.implicit_children && policy.parent.is_none());
}

#[test]
fn contradictions_are_refused_in_words() {
    assert!(refused(r#"{"kind":"agent","id_pattern":"a*","id_prefix":"b"}"#).contains("give one of id"));
    assert!(refused(r#"{"kind":"agent","id_pattern":"a*","assigned":true}"#).contains("give one of id"));
    assert!(refused(r#"{"kind":"agent","ephemeral_after":"soon"}"#).contains("ephemeral_after"));

    assert!(refused(r#"{"kind":"agent","id":"a","id_prefix":"b"}"#).contains("give one of id"));
    assert!(refused(r#"{"kind":"agent","id":"a","assigned":true}"#).contains("give one of id"));
    assert!(refused(r#"{"kind":"agent","ttl":"1h","expires_at":"2027-01-15T09:00:00Z"}"#).contains("either ttl"));
    assert!(refused(r#"{"kind":"agent","ttl":"soon"}"#).contains("no duration"));
    assert!(refused(r#"{"kind":"agent","expires_at":"tomorrow"}"#).contains("2026-11-21T02:46:00Z"));
    for prefix in ["", "-a", "A", "a..", "a/b", &"x".repeat(64)] {
        let body = serde_json::json!({ "kind": "agent", "id_prefix": prefix }).to_string();
        assert!(refused(&body).contains("can begin no id"), "{prefix}");
    }
}

#[test]
fn unknown_fields_and_words_do_not_parse() {
    for text in [
        r#"{}"#,
        r#"{"kind":"robot"}"#,
        r#"{"kind":"agent","secret":"x"}"#,
        r#"{"kind":"agent","cidr_allow":["10.0.0.0/99"]}"#,
        r#"{"kind":"agent","labels":{"A":"x"}}"#,
        r#"{"kind":"agent","rejoin_limit":"often"}"#,
        r#"{"kind":"agent","addresses":["http://x"]}"#,
        r#"{"kind":"agent","max_uses":-1}"#,
        r#"{"kind":"agent","note":"a\nb"}"#,
        r#"{"kind":"agent","id_pattern":"../*"}"#,
        r#"{"kind":"agent","parent_rule":{"label":"site","parent":"poller"}}"#,
        r#"{"kind":"agent","parent_rule":{"label":"site"}}"#,
        r#"{"kind":"agent","approval":"maybe"}"#,
    ] {
        assert!(serde_json::from_str::<CreateBody>(text).is_err(), "{text}");
    }
}

fn dialed(asked: &[&str], local: bool, advertised: &[&str], quic: &str) -> Result<String, Problem> {
    let read = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<Address>>();
    let chosen = addresses_of(&read(asked), local, &read(advertised), quic.parse().unwrap())?;
    Ok(chosen.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
}

#[test]
fn a_token_carries_what_sidecars_can_reach() {
    let any = "[::]:7411";
    assert_eq!(
        dialed(&[], false, &["c.example:7411", "192.0.2.1:7411"], any).unwrap(),
        "c.example:7411 192.0.2.1:7411"
    );
    assert_eq!(dialed(&["d.example:1"], false, &["c.example:7411"], any).unwrap(), "d.example:1");
    assert_eq!(dialed(&[], true, &[], any).unwrap(), "127.0.0.1:7411");
    assert_eq!(dialed(&[], true, &["c.example:7411"], "0.0.0.0:9").unwrap(), "127.0.0.1:9");
    assert_eq!(dialed(&[], true, &[], "[::ffff:0.0.0.0]:9").unwrap(), "127.0.0.1:9");
    assert_eq!(dialed(&[], true, &[], "192.0.2.9:9").unwrap(), "192.0.2.9:9");
    assert_eq!(dialed(&["127.0.0.1:9"], true, &[], any).unwrap(), "127.0.0.1:9");
}

#[test]
fn an_address_that_leads_nowhere_is_refused_with_the_fix() {
    let any = "[::]:7411";
    let problem = dialed(&[], false, &[], any).unwrap_err();
    assert_eq!(problem.code(), ProblemCode::NoAddress);
    assert!(problem.detail().contains("`advertise`") && problem.detail().contains("--local"));
    for local in ["127.0.0.1:7411", "localhost:7411", "[::1]:7411"] {
        let problem = dialed(&[], false, &["c.example", local], any).unwrap_err();
        assert_eq!(problem.code(), ProblemCode::NoAddress);
        assert!(problem.detail().contains("--local"), "{}", problem.detail());
        assert!(dialed(&[local], false, &["c.example"], any).is_err());
    }
    let many = ["a", "b", "c", "d", "e"];
    assert_eq!(dialed(&many, false, &[], any).unwrap_err().code(), ProblemCode::Invalid);
}

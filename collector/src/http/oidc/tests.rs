//! Tokens with real signatures, and what each flaw comes to. No network: keys are read from a set.

use aws_lc_rs::{
    rand::SystemRandom,
    rsa,
    signature::{
        self, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256,
        RSA_PSS_SHA256,
    },
};
use data_encoding::BASE64URL_NOPAD;
use rollcall_common::time::Timestamp;
use serde_json::{Value, json};

use super::{
    claims,
    jwt::{self, Flaw},
    keys::Keys,
    *,
};
use crate::http::access::{Caller, Permission};

const NOW: Timestamp = Timestamp(1_800_000_000_000);
const SECS: i64 = 1_800_000_000;

enum Pair {
    Rsa(signature::RsaKeyPair),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

pub(super) struct Signer {
    pair: Pair,
    kid: &'static str,
}

fn b64(bytes: &[u8]) -> String {
    BASE64URL_NOPAD.encode(bytes)
}

impl Signer {
    pub(super) fn ec(kid: &'static str) -> Self {
        Self { pair: Pair::Ec(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap()), kid }
    }

    fn ed(kid: &'static str) -> Self {
        Self { pair: Pair::Ed(Ed25519KeyPair::generate().unwrap()), kid }
    }

    fn rsa(kid: &'static str) -> Self {
        Self { pair: Pair::Rsa(rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap()), kid }
    }

    fn alg(&self) -> &'static str {
        match self.pair {
            Pair::Rsa(_) => "RS256",
            Pair::Ec(_) => "ES256",
            Pair::Ed(_) => "EdDSA",
        }
    }

    pub(super) fn jwk(&self) -> Value {
        match &self.pair {
            Pair::Rsa(pair) => {
                let public = pair.public_key();
                let (n, e) = (public.modulus(), public.exponent());
                json!({"kty": "RSA", "kid": self.kid, "use": "sig",
                       "n": b64(n.big_endian_without_leading_zero()), "e": b64(e.big_endian_without_leading_zero())})
            }
            Pair::Ec(pair) => {
                let point = pair.public_key().as_ref();
                json!({"kty": "EC", "crv": "P-256", "kid": self.kid, "alg": "ES256",
                       "x": b64(&point[1..33]), "y": b64(&point[33..])})
            }
            Pair::Ed(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "kid": self.kid, "x": b64(pair.public_key().as_ref())})
            }
        }
    }

    fn sign(&self, alg: &str, text: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Rsa(pair) => {
                let padding: &'static dyn signature::RsaEncoding =
                    if alg == "PS256" { &RSA_PSS_SHA256 } else { &RSA_PKCS1_SHA256 };
                let mut out = vec![0; pair.public_modulus_len()];
                pair.sign(padding, &random, text, &mut out).unwrap();
                out
            }
            Pair::Ec(pair) => pair.sign(&random, text).unwrap().as_ref().to_vec(),
            Pair::Ed(pair) => pair.sign(text).as_ref().to_vec(),
        }
    }

    fn token(&self, header: &Value, claims: &Value) -> String {
        let signed = format!("{}.{}", b64(header.to_string().as_bytes()), b64(claims.to_string().as_bytes()));
        let alg = header["alg"].as_str().unwrap_or_default();
        let signature = self.sign(alg, signed.as_bytes());
        format!("{signed}.{}", b64(&signature))
    }

    pub(super) fn good(&self, claims: &Value) -> String {
        self.token(&json!({"alg": self.alg(), "kid": self.kid, "typ": "JWT"}), claims)
    }
}

fn set(all: &[&Signer]) -> Keys {
    let keys: Vec<Value> = all.iter().map(|signer| signer.jwk()).collect();
    Keys::read(json!({ "keys": keys }).to_string().as_bytes()).unwrap()
}

pub(super) fn issuer() -> Issuer {
    let roles = [("ops", Role::Operator), ("boss", Role::Admin), ("staff", Role::Viewer)];
    Issuer {
        name: "corp".into(),
        issuer: "https://idp.example".into(),
        audience: "rollcall".into(),
        roles_claim: ClaimPath::new("realm_access.roles").unwrap(),
        roles: roles.into_iter().map(|(word, role)| (word.to_owned(), role)).collect(),
        roles_allowed: [Role::Viewer, Role::Operator].into_iter().collect(),
        scope_claim: None,
        scopes: BTreeMap::new(),
        scope: Scope::everything(),
        ca_file: None,
        insecure_loopback: false,
    }
}

pub(super) fn good_claims() -> Value {
    json!({"iss": "https://idp.example", "aud": "rollcall", "sub": "alice", "exp": SECS + 300, "iat": SECS,
           "realm_access": {"roles": ["ops"]}})
}

fn verify(keys: &Keys, text: &str, issuer: &Issuer) -> Result<Caller, Flaw> {
    let token = jwt::read(text)?;
    keys.prove(&token)?;
    claims::judge(&token.claims, issuer, NOW)
}

#[test]
fn every_allowed_algorithm_proves_a_token() {
    let all = [Signer::ec("e"), Signer::ed("d"), Signer::rsa("r")];
    let keys = set(&all.iter().collect::<Vec<_>>());
    assert_eq!(keys.len(), 3);
    for signer in &all {
        let caller = verify(&keys, &signer.good(&good_claims()), &issuer()).unwrap();
        assert_eq!(caller.actor, "oidc:corp:alice");
        assert!(caller.roles.may(Permission::Operate) && !caller.roles.may(Permission::Administer));
        assert_eq!(caller.ends, Some(Timestamp((SECS + 330) * 1000)));
    }
    let pss = all[2].token(&json!({"alg": "PS256", "kid": "r"}), &good_claims());
    assert!(verify(&keys, &pss, &issuer()).is_ok(), "a key without an algorithm allows what its family does");
    let alone = set(&[&all[0]]);
    let nameless = all[0].token(&json!({"alg": "ES256"}), &good_claims());
    assert!(verify(&alone, &nameless, &issuer()).is_ok());
    assert_eq!(verify(&keys, &nameless, &issuer()), Err(Flaw::Key));
}

/// H2: the header chooses nothing, and what links or embeds a key is refused.
#[test]
fn headers_choose_nothing() {
    let (rsa, ec) = (Signer::rsa("r"), Signer::ec("e"));
    let keys = set(&[&rsa, &ec]);
    let claims = good_claims();
    for alg in ["none", "None", "nOnE", "NONE", ""] {
        let unsigned =
            format!("{}.{}.", b64(json!({"alg": alg}).to_string().as_bytes()), b64(claims.to_string().as_bytes()));
        assert_eq!(verify(&keys, &unsigned, &issuer()), Err(Flaw::Form), "{alg}");
        let signed = rsa.token(&json!({"alg": alg, "kid": "r"}), &claims);
        assert_eq!(verify(&keys, &signed, &issuer()), Err(Flaw::Algorithm), "{alg}");
    }
    // The public key as the secret of a symmetric algorithm.
    let Pair::Rsa(pair) = &rsa.pair else { unreachable!() };
    let der =
        aws_lc_rs::encoding::AsDer::<aws_lc_rs::encoding::PublicKeyX509Der<'_>>::as_der(pair.public_key()).unwrap();
    let head = b64(json!({"alg": "HS256", "kid": "r"}).to_string().as_bytes());
    let signed = format!("{head}.{}", b64(claims.to_string().as_bytes()));
    let tag = aws_lc_rs::hmac::sign(
        &aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, der.as_ref()),
        signed.as_bytes(),
    );
    assert_eq!(verify(&keys, &format!("{signed}.{}", b64(tag.as_ref())), &issuer()), Err(Flaw::Algorithm));
    for kid in ["../../x", "' OR 1=1 --", "", "R", "r\0"] {
        assert_eq!(verify(&keys, &rsa.token(&json!({"alg": "RS256", "kid": kid}), &claims), &issuer()), Err(Flaw::Key));
    }
    for odd in [
        json!({"jku": "https://evil.example/jwks"}),
        json!({"x5u": "https://evil.example/cert"}),
        json!({"jwk": ec.jwk()}),
        json!({"crit": ["exp"]}),
        json!({"zip": "DEF"}),
        json!({"typ": "JOSE"}),
    ] {
        let mut header = json!({"alg": "ES256", "kid": "e"});
        header.as_object_mut().unwrap().extend(odd.as_object().unwrap().clone());
        assert_eq!(verify(&keys, &ec.token(&header, &claims), &issuer()), Err(Flaw::Header), "{odd}");
    }
    assert_eq!(
        verify(&keys, &ec.token(&json!({"alg": "RS256", "kid": "e"}), &claims), &issuer()),
        Err(Flaw::Algorithm)
    );
    assert_eq!(
        verify(&keys, &rsa.token(&json!({"alg": "RS512", "kid": "r"}), &claims), &issuer()),
        Err(Flaw::Algorithm)
    );
}

/// H3, H4: times and parties, each of the right type.
#[test]
fn claims_are_strict() {
    let ec = Signer::ec("e");
    let keys = set(&[&ec]);
    let with = |name: &str, value: Option<Value>| {
        let mut claims = good_claims();
        match value {
            Some(value) => claims[name] = value,
            None => drop(claims.as_object_mut().unwrap().remove(name)),
        }
        verify(&keys, &ec.good(&claims), &issuer()).map(drop)
    };
    for (name, value, expected) in [
        ("exp", Some(json!(SECS - 29)), Ok(())),
        ("exp", Some(json!(SECS - 30)), Err(Flaw::Expired)),
        ("exp", Some(json!(SECS - 31)), Err(Flaw::Expired)),
        ("exp", Some(json!((SECS + 300).to_string())), Err(Flaw::Expired)),
        ("exp", Some(json!(-1)), Err(Flaw::Expired)),
        ("exp", Some(json!(1e300)), Err(Flaw::Expired)),
        ("exp", Some(Value::Null), Err(Flaw::Expired)),
        ("exp", None, Err(Flaw::Expired)),
        ("nbf", Some(json!(SECS + 30)), Ok(())),
        ("nbf", Some(json!(SECS + 31)), Err(Flaw::NotYet)),
        ("nbf", Some(json!("soon")), Err(Flaw::NotYet)),
        ("iat", Some(json!(SECS + 86_400)), Err(Flaw::NotYet)),
        ("iat", None, Ok(())),
        ("aud", Some(json!(["other", "rollcall"])), Ok(())),
        ("aud", Some(json!("other")), Err(Flaw::Audience)),
        ("aud", Some(json!(["other"])), Err(Flaw::Audience)),
        ("aud", Some(json!([])), Err(Flaw::Audience)),
        ("aud", Some(json!(["rollcall", 5])), Err(Flaw::Audience)),
        ("aud", Some(json!(5)), Err(Flaw::Audience)),
        ("aud", Some(json!({"rollcall": true})), Err(Flaw::Audience)),
        ("aud", None, Err(Flaw::Audience)),
        ("iss", Some(json!("https://idp.example/")), Err(Flaw::Issuer)),
        ("iss", Some(json!(["https://idp.example"])), Err(Flaw::Issuer)),
        ("iss", None, Err(Flaw::Issuer)),
        ("sub", None, Err(Flaw::Subject)),
        ("sub", Some(json!("")), Err(Flaw::Subject)),
        ("sub", Some(json!(7)), Err(Flaw::Subject)),
        ("sub", Some(json!("x".repeat(256))), Err(Flaw::Subject)),
    ] {
        assert_eq!(with(name, value.clone()), expected, "{name} {value:?}");
    }
    let text = good_claims().to_string().replace(&format!("\"exp\":{}", SECS + 300), "\"exp\":1e400");
    let head = b64(json!({"alg": "ES256", "kid": "e"}).to_string().as_bytes());
    let signed = format!("{head}.{}", b64(text.as_bytes()));
    let huge = format!("{signed}.{}", b64(&ec.sign("ES256", signed.as_bytes())));
    assert_eq!(verify(&keys, &huge, &issuer()).map(drop), Err(Flaw::Form));
}

/// H5: a signature is for these very bytes, by this very key.
#[test]
fn signatures_are_for_these_bytes() {
    let (ec, other) = (Signer::ec("e"), Signer::ec("e"));
    let keys = set(&[&ec]);
    let token = ec.good(&good_claims());
    let (signed, signature) = token.rsplit_once('.').unwrap();
    assert_eq!(verify(&keys, &format!("{signed}."), &issuer()), Err(Flaw::Form));
    assert_eq!(verify(&keys, signed, &issuer()), Err(Flaw::Form));
    for n in 0..signature.len() {
        let mut changed = signature.as_bytes().to_vec();
        changed[n] = if changed[n] == b'A' { b'B' } else { b'A' };
        let changed = format!("{signed}.{}", String::from_utf8(changed).unwrap());
        assert!(matches!(verify(&keys, &changed, &issuer()), Err(Flaw::Signature | Flaw::Form)), "{n}");
    }
    let mut stronger = good_claims();
    stronger["realm_access"]["roles"] = json!(["boss"]);
    let head = signed.split_once('.').unwrap().0;
    let swapped = format!("{head}.{}.{signature}", b64(stronger.to_string().as_bytes()));
    assert_eq!(verify(&keys, &swapped, &issuer()), Err(Flaw::Signature));
    assert_eq!(verify(&keys, &other.good(&good_claims()), &issuer()), Err(Flaw::Signature), "H4: another issuer's key");
    assert_eq!(verify(&keys, &format!("{token}.x"), &issuer()), Err(Flaw::Form));
    assert_eq!(verify(&keys, &format!("{token}="), &issuer()), Err(Flaw::Form));
    let long = ec.good(&json!({"pad": "x".repeat(1 << 20)}));
    assert_eq!(verify(&keys, &long, &issuer()), Err(Flaw::Form));
}

/// H7: roles are a list of known words, and an issuer gives no more than it may.
#[test]
fn roles_do_not_escalate() {
    let roles = |value: Value| {
        let mut claims = good_claims();
        claims["realm_access"]["roles"] = value;
        claims::judge(&claims, &issuer(), NOW).unwrap().roles
    };
    assert_eq!(roles(json!(["staff", "ADMIN", "admin", "Boss"])), Role::Viewer.into());
    assert_eq!(roles(json!(["staff", "boss"])), Role::Viewer.into(), "this issuer makes no administrators");
    for odd in [json!("boss"), json!({"0": "staff"}), json!([["staff"]]), json!(["staff", 5]), json!(null), json!(true)]
    {
        assert!(roles(odd.clone()).is_empty(), "{odd}");
    }
    let mut claims = good_claims();
    claims["roles"] = json!(["ops"]);
    drop(claims.as_object_mut().unwrap().remove("realm_access"));
    assert!(claims::judge(&claims, &issuer(), NOW).unwrap().roles.is_empty());
    let bold = Issuer {
        roles_allowed: Role::ALL.into_iter().collect(),
        roles: [("e".to_owned(), Role::Enroller)].into(),
        ..issuer()
    };
    let mut claims = good_claims();
    claims["realm_access"]["roles"] = json!(["e"]);
    assert!(claims::judge(&claims, &bold, NOW).unwrap().roles.is_empty());
}

#[test]
fn scopes_come_from_known_words_or_not_at_all() {
    let scoped = Issuer {
        scope_claim: Some(ClaimPath::new("sites").unwrap()),
        scopes: [("n", "site in (1,2)"), ("s", "site=3"), ("e", "env=prod")]
            .map(|(word, scope)| (word.to_owned(), scope.parse().unwrap()))
            .into(),
        ..issuer()
    };
    let reach = |sites: Value| {
        let mut claims = good_claims();
        claims["sites"] = sites;
        let caller = claims::judge(&claims, &scoped, NOW).unwrap();
        (!caller.roles.is_empty()).then(|| caller.scope.to_string())
    };
    assert_eq!(reach(json!(["s"])).as_deref(), Some("site=3"));
    assert_eq!(reach(json!("n")).as_deref(), Some("site in (1,2)"));
    assert_eq!(reach(json!(["n", "s", "unknown"])).as_deref(), Some("site in (1,2,3)"));
    // No scope says "one label or the other", and none is guessed.
    assert_eq!(reach(json!(["n", "e"])), None);
    for nothing in [json!(["unknown"]), json!([]), json!(null), json!({"n": 1})] {
        assert_eq!(reach(nothing.clone()), None, "{nothing}");
    }
}

#[test]
fn subjects_look_like_nobody_else() {
    let actor = |sub: &str| {
        let mut claims = good_claims();
        claims["sub"] = json!(sub);
        claims::judge(&claims, &issuer(), NOW).unwrap().actor
    };
    assert_eq!(actor("auth0|5f-a@b.example"), "oidc:corp:auth0|5f-a@b.example");
    assert_eq!(actor("a\r\nb\u{1b}[2J"), "oidc:corp:a%0D%0Ab%1B%5B2J");
    assert_eq!(actor("a%0D"), "oidc:corp:a%250D");
    assert_ne!(actor("a b"), actor("a_b"));
}

#[test]
fn key_sets_are_read_leniently_and_used_strictly() {
    let ec = Signer::ec("e");
    let weak = json!({"kty": "RSA", "kid": "w", "n": b64(&[0xff; 128]), "e": "AQAB"});
    let mut encrypting = ec.jwk();
    encrypting["use"] = json!("enc");
    let mut mislabelled = ec.jwk();
    mislabelled["alg"] = json!("RS256");
    let symmetric = json!({"kty": "oct", "kid": "s", "k": b64(b"secret"), "alg": "HS256"});
    let odd = json!({"kty": "PQC", "kid": "q"});
    for useless in [&weak, &encrypting, &mislabelled, &symmetric, &odd] {
        assert!(Keys::read(json!({"keys": [useless]}).to_string().as_bytes()).is_err(), "{useless}");
    }
    let all = json!({"keys": [weak, encrypting, symmetric, odd, ec.jwk()]});
    assert_eq!(Keys::read(all.to_string().as_bytes()).unwrap().len(), 1);
    for bad in ["", "<html>", "[]", "{}", r#"{"keys":5}"#, r#"{"keys":[]}"#] {
        assert!(Keys::read(bad.as_bytes()).is_err(), "{bad}");
    }
    let many: Vec<Value> = (0..65).map(|_| ec.jwk()).collect();
    assert!(Keys::read(json!({ "keys": many }).to_string().as_bytes()).is_err());
}

#[test]
fn claim_paths_are_read() {
    let claims = json!({"a": {"b": 1}, "https://x/roles": 2});
    assert_eq!(ClaimPath::new("a.b").unwrap().look(&claims), Some(&json!(1)));
    assert_eq!(ClaimPath::new("/https:~1~1x~1roles").unwrap().look(&claims), Some(&json!(2)));
    for bad in ["", ".", "a..b", "/", "a."] {
        assert!(ClaimPath::new(bad).is_err(), "{bad}");
    }
}

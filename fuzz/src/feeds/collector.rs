//! What the collector reads of strangers beyond the words of `common`: certificate requests, ranges of addresses,
//! rules for names, queries, manifests, login codes, signed tokens. `collector/tests/corpus.rs` includes this very file to replay what the fuzzer kept.
//!
//! Refusing is always allowed, a panic never. Accepting comes with a duty: what was accepted stays within
//! its bounds, and is the same when it is read again.

use std::{collections::BTreeMap, net::IpAddr};

use rollcall_collector::{
    ca::{Ca, MAX_CSR, verify_proof},
    cidr::Cidr,
    cli,
    http::feeds,
    logincode::{Kept, LoginCode},
    naming::{IdPattern, ParentRule},
    scope::Scope,
};
use rollcall_common::{id::ServiceId, identity::Pin, service::Pairs, time::Timestamp, wire::EXPORTER_LEN};

/// What a target does with its bytes.
pub type Feed = fn(&[u8]);

/// Every feed by the name of its target.
pub const ALL: &[(&str, Feed)] = &[
    ("csr", csr),
    ("cidr", cidr),
    ("naming", naming),
    ("selection", selection),
    ("manifest", manifest),
    ("login", login),
    ("jwt", jwt),
];

/// A certificate request, as it comes with an enrollment, a rejoin and a renewal, and the proof beside it.
pub fn csr(data: &[u8]) {
    let exporter = [0; EXPORTER_LEN];
    assert!(!verify_proof(data, &exporter, data, data), "bytes prove that they hold themselves");
    let Ok(request) = Ca::read_csr(data) else { return };
    assert!(data.len() <= MAX_CSR, "{} bytes were accepted", data.len());
    let spki = request.spki();
    assert!(data.windows(spki.len()).any(|part| part == spki), "the key is not of the request");
    assert!(spki.len() == 91 && request.key() == Pin::of_spki(spki), "a request for no P-256 key was accepted");
    assert!(Ca::read_csr(data) == Ok(request.clone()), "a request reads as another one");
    assert!(Ca::read_csr(&[data, &[0]].concat()).is_err(), "bytes behind a request were passed over");
    assert!(!verify_proof(spki, &exporter, data, data), "a request is the proof of its own freshness");
}

/// Where a token may be used from.
pub fn cidr(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(range) = text.parse::<Cidr>() else { return };
    let printed = range.to_string();
    assert!(printed.parse() == Ok(range), "{printed} reads as another range");
    let base = printed.split_once('/').and_then(|(base, _)| base.parse::<IpAddr>().ok());
    let inside = base.is_some_and(|base| range.contains(base));
    assert!(inside, "{printed} does not hold its own address");
}

/// A pattern for ids and an id, or a label's rule for parents and the label's value: one line each.
pub fn naming(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (rule, name) = text.split_once('\n').unwrap_or((text, ""));
    if let Ok(pattern) = rule.parse::<IdPattern>() {
        assert!(pattern.to_string() == rule, "{rule:?} prints as another pattern");
        if let Ok(id) = ServiceId::new(name) {
            let naive = follows(rule.as_bytes(), name.as_bytes());
            assert!(pattern.matches(&id) == naive, "{rule:?} and {name:?}");
        }
    }
    let Some((label, template)) = rule.split_once('=') else { return };
    let Ok(rule) = ParentRule::new(label, template) else { return };
    let pairs = Pairs::try_from([(label.to_owned(), name.to_owned())].into_iter().collect::<BTreeMap<_, _>>());
    let Ok(pairs) = pairs else { return };
    if let Some(parent) = rule.parent(&pairs) {
        assert!(parent.as_str() == template.replace("{}", name), "{parent} is another parent");
    }
}

/// Whether a text follows a pattern, as one would write it down first: which beginnings of the pattern the text so far
/// can be, one byte after the other.
fn follows(pattern: &[u8], text: &[u8]) -> bool {
    // A star may also be nothing.
    let closed = |reached: &[bool]| {
        let mut through = false;
        let mut stars = pattern.iter().map(|byte| *byte == b'*');
        let mut out = Vec::with_capacity(reached.len());
        for place in reached {
            let (here, star) = (*place || through, stars.next().unwrap_or(false));
            out.push(here);
            through = here && star;
        }
        out
    };
    let mut reached = vec![false; pattern.len() + 1];
    if let Some(first) = reached.first_mut() {
        *first = true;
    }
    let mut reached = closed(&reached);
    for byte in text {
        let mut next = vec![false; pattern.len() + 1];
        for (at, (one, place)) in pattern.iter().zip(&reached).enumerate() {
            let stays = *one == b'*';
            let takes = *one == b'?' || one == byte;
            if let Some(to) = next.get_mut(if stays { at } else { at + 1 }) {
                *to |= *place && (stays || takes);
            }
        }
        reached = closed(&next);
    }
    reached.last().copied().unwrap_or(false)
}

/// A query of a list, a test of a label, and a scope: whatever a caller writes to choose among services.
pub fn selection(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = feeds::query(text);
    for labels in ["", "site=3", "site=3,env=prod"] {
        let pairs = labels.split(',').filter_map(|pair| pair.split_once('='));
        let pairs: BTreeMap<_, _> = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        let Ok(pairs) = Pairs::try_from(pairs) else { continue };
        let _ = feeds::label(text, &pairs);
    }
    if let Ok(scope) = text.parse::<Scope>() {
        assert!(scope.to_string().parse() == Ok(scope.clone()), "{scope} reads as another scope");
    }
}

/// What is to be registered in bulk: as the API gets it, and as an operator writes it.
pub fn manifest(data: &[u8]) {
    let readable = feeds::items(data);
    assert!(readable <= 4 * data.len(), "{readable} items in {} bytes", data.len());
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = cli::items_of_manifest(text);
    }
}

/// A login code as somebody types it, and the file that keeps what is left of one.
pub fn login(data: &[u8]) {
    if let Ok(code) = std::str::from_utf8(data).map_err(drop).and_then(|text| text.parse::<LoginCode>().map_err(drop)) {
        let again = code.reveal().parse::<LoginCode>();
        assert!(again.is_ok_and(|again| again.hash() == code.hash()), "a code reads as another one");
        assert!(!format!("{code:?}").contains(code.reveal().as_str()), "a code shows itself");
    }
    if let Some(kept) = Kept::parse(data) {
        assert!(Kept::parse(kept.print().as_bytes()) == Some(kept.clone()), "what is kept reads as something else");
        let nobody = [0, i64::MAX, i64::MIN].map(Timestamp);
        if let Ok(code) = "aaaaa-aaaaa-aaaaa-aaaaa-aaaaa".parse::<LoginCode>() {
            let opens = nobody.iter().any(|now| kept.is(&code, *now));
            assert!(!opens || kept.print().contains("hash"), "it opens for anybody");
        }
    }
}

/// A signed token as it stands in a head, before any key is known.
pub fn jwt(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = feeds::token(text);
    }
}

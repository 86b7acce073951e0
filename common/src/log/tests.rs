use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use tracing::{Level, level_filters::LevelFilter};
use tracing_subscriber::layer::SubscriberExt as _;

use super::*;
use crate::token::{Credential, CredentialKind};

const NOW: Timestamp = Timestamp(1_800_000_000_123);

/// What is said while `speak` runs.
fn said(form: Form, level: LevelFilter, speak: impl FnOnce()) -> String {
    let kept = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&kept);
    let lines = Lines::new(form, || NOW, move |line: &[u8]| sink.lock().unwrap().extend_from_slice(line));
    let subscriber = tracing_subscriber::registry().with(lines.with_filter(level));
    tracing::subscriber::with_default(subscriber, speak);
    let kept = kept.lock().unwrap();
    String::from_utf8(kept.clone()).unwrap()
}

fn speak() {
    let outer = tracing::info_span!("session", service = "agent/edge-17", serial = tracing::field::Empty, n = 1);
    let _outer = outer.enter();
    outer.record("serial", "07");
    let _inner = tracing::info_span!("http", n = 2, odd = "a b").entered();
    tracing::warn!(n = 3, ratio = 0.5, bad = f64::NAN, yes = true, level = "mine", why = ?Some("x"), "it {}", "broke");
}

#[test]
fn an_event_is_one_line_in_every_form() {
    let text = said(Form::Text { colour: false }, LevelFilter::TRACE, speak);
    assert_eq!(
        text,
        "2027-01-15T08:00:00.123Z  WARN session{service=agent/edge-17 n=1 serial=07}:http{n=2 odd=\"a b\"}: \
         rollcall_common::log::tests: it broke n=3 ratio=0.5 bad=NaN yes=true level=mine why=\"Some(\\\"x\\\")\"\n"
    );
    let journal = said(Form::Journal, LevelFilter::TRACE, speak);
    assert!(journal.starts_with("<4> WARN session{"), "{journal}");
    let json = said(Form::Json, LevelFilter::TRACE, speak);
    assert_eq!(
        json,
        "{\"timestamp\":\"2027-01-15T08:00:00.123Z\",\"level\":\"WARN\",\"target\":\"rollcall_common::log::tests\",\
         \"span\":\"http\",\"message\":\"it broke\",\"n\":3,\"ratio\":0.5,\"bad\":\"NaN\",\"yes\":true,\
         \"field_level\":\"mine\",\"why\":\"Some(\\\"x\\\")\",\"odd\":\"a b\",\"service\":\"agent/edge-17\",\
         \"serial\":\"07\"}\n"
    );
    let colour = said(Form::Text { colour: true }, LevelFilter::TRACE, speak);
    assert!(colour.contains("\u{1b}[33m WARN\u{1b}[0m session{"), "{colour}");
}

/// H14, RUSTSEC-2025-0055: whoever writes a text that is logged forges no line and moves no cursor.
#[test]
fn nothing_from_outside_makes_a_second_line() {
    let nasty = "x\n{\"level\":\"info\"}\r\u{1b}[2J\u{1b}]52;c;aGk=\u{7}\u{202e}\u{2028}";
    let speak = || {
        let _span = tracing::info_span!("http", agent = nasty).entered();
        tracing::info!(text = nasty, shown = %nasty, debug = ?nasty, "{nasty}");
    };
    for form in [Form::Text { colour: false }, Form::Journal, Form::Json] {
        let text = said(form, LevelFilter::INFO, speak);
        let line = text.strip_suffix('\n').unwrap();
        let harmful = |c: char| c.is_control() || ('\u{2028}'..='\u{202e}').contains(&c);
        assert!(!line.contains(harmful), "{line:?}");
    }
}

/// H15: a secret is masked wherever it stands: message, field, span, error.
#[test]
fn a_secret_is_masked_wherever_it_stands() {
    let credential = Credential::random(CredentialKind::Bootstrap).unwrap();
    let secret = credential.reveal();
    let secret = secret.as_str();
    let blob = secret.rsplit('_').next().unwrap();
    let speak = || {
        let _span = tracing::info_span!("http", header = secret, cut = &blob[5..]).entered();
        let error = std::io::Error::other(secret.to_owned());
        tracing::info!(a = secret, b = %secret, c = ?secret, error = &error as &dyn std::error::Error, "say {secret}");
    };
    for form in [Form::Text { colour: false }, Form::Journal, Form::Json] {
        let text = said(form, LevelFilter::INFO, speak);
        assert!(!text.contains(&blob[..16]) && !text.contains(&blob[40..60]), "{text}");
        assert_eq!(text.matches(&format!("rollcall_adm1_{}_***", credential.id)).count(), 6, "{text}");
    }
}

/// What nobody wants to read costs nobody the formatting: each heartbeat is a trace event.
#[test]
fn what_is_filtered_is_not_formatted() {
    static FORMATTED: AtomicUsize = AtomicUsize::new(0);
    struct Costly;
    impl fmt::Display for Costly {
        fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
            FORMATTED.fetch_add(1, Relaxed);
            Ok(())
        }
    }
    let beat = || tracing::trace!(beat = %Costly, "beat");
    assert_eq!(said(Form::Json, LevelFilter::INFO, beat), "");
    assert_eq!(FORMATTED.load(Relaxed), 0);
    assert!(!said(Form::Json, LevelFilter::TRACE, beat).is_empty());
    assert_eq!(FORMATTED.load(Relaxed), 1, "and once where somebody does");
}

#[test]
fn a_line_has_a_bound() {
    let text = said(Form::Json, LevelFilter::INFO, || tracing::info!(long = "x ".repeat(1 << 20), "short"));
    assert!(text.len() < 10_000, "{}", text.len());
    assert!(text.ends_with("…\"}\n"), "{}", &text[text.len() - 20..]);
}

#[test]
fn the_journal_is_told_by_device_and_inode() {
    assert!(is_journal("8:12345", 8, 12345));
    for other in ["", "8", "8:12346", "9:12345", "x:y", "8:12345:1"] {
        assert!(!is_journal(other, 8, 12345), "{other}");
    }
    assert_eq!(Level::WARN.as_str(), "WARN");
}

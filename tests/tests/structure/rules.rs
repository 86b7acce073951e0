//! The rules of a source file. Each names the file, the line and what to do instead.

use super::source::{Mention, Source};

/// Foreign crates that live in one place, so that replacing one touches one place. A home is a file or a
/// folder, or both: `collector/src/http` is `http.rs` and `http/`.
pub(crate) const HOMES: &[(&str, &[&str])] = &[
    ("quinn", &["agent/src/link", "collector/src/ingest"]),
    ("quinn_proto", &["collector/src/ingest"]),
    ("axum", &["collector/src/http"]),
    (
        "hyper",
        &["agent/src/local/http", "agent/src/probe/check/http", "agent/src/probe/check/grpc", "collector/src/http"],
    ),
    ("hyper_util", &["agent/src/local/http", "agent/src/probe/check/http", "collector/src/http"]),
    ("http_body_util", &["agent/src/local/http", "agent/src/probe/check/http", "collector/src/http"]),
    ("memchr", &["collector/src/registry/roster/text"]),
    ("utoipa", &["collector/src/http"]),
    ("utoipa_swagger_ui", &["collector/src/http"]),
    (
        "tokio_rustls",
        &[
            "collector/src/http",
            "collector/src/audit/outlet",
            "collector/src/ingest",
            "agent/src/link/tcp",
            "agent/src/probe/check/tls",
        ],
    ),
    ("rustls_native_certs", &["collector/src/audit/outlet"]),
    ("h2", &["agent/src/probe/check/grpc"]),
    ("redis", &["collector/src/store/redis"]),
    ("sqlx", &["collector/src/store/sqlite", "collector/src/store/postgres"]),
    ("sysinfo", &["agent/src/sample/host"]),
    ("reqwest", &["collector/src/audit/outlet/webhook", "collector/src/cli", "collector/src/http/oidc"]),
    ("jsonwebtoken", &["collector/src/http/oidc"]),
    ("comfy_table", &["collector/src/cli"]),
    ("cronexpr", &["collector/src/schedule"]),
    ("ulid", &["collector/src/store/rows/upkeep", "collector/src/ingest/enroll"]),
    ("clap_complete", &["collector/src/cli"]),
    ("indicatif", &["collector/src/cli"]),
    ("tar", &["collector/src/http/packages", "collector/src/http/tree", "collector/src/cli"]),
    ("flate2", &["collector/src/http/packages", "collector/src/http/tree", "collector/src/cli"]),
    (
        "rcgen",
        &["collector/src/ca", "agent/src/key", "agent/src/enroll", "agent/src/vault", "agent/src/identity/specimen"],
    ),
];

/// What common must not touch: whoever needs these is a shell.
const RIM: &[&str] = &[
    "tokio",
    "std::fs",
    "std::env",
    "std::process",
    "std::thread",
    "std::os",
    "std::net::UdpSocket",
    "std::net::TcpStream",
    "std::net::TcpListener",
    "rustix::fs",
    "rustix::net",
    "rustix::process",
    // A line of the log is a value; where lines go, and setting that up, is a program's.
    "tracing_subscriber::fmt",
    "tracing_subscriber::util",
    "tracing_subscriber::EnvFilter",
];

/// Who in the collector must not know whom: ingest and http → registry → store. The operator's commands
/// speak to the public API like everybody else.
const BLIND: &[(&str, &[&str])] = &[
    ("collector/src/store", &["registry", "ingest", "http", "cli", "collector", "ca", "jobs"]),
    ("collector/src/registry", &["ingest", "http", "cli", "collector"]),
    ("collector/src/ca", &["registry", "ingest", "http", "cli", "collector"]),
    ("collector/src/ingest", &["http", "cli", "collector"]),
    ("collector/src/http", &["ingest", "cli", "collector"]),
    ("collector/src/cli/", &["registry", "ingest", "http", "store", "ca"]),
];

/// Where test code lets time pass because that is its subject: the wire with its delays, fleets and the load
/// generator. Anywhere else only a function whose name begins with `until` may, between two looks.
const PACED: &[&str] =
    &["tests/src/fleet", "tests/src/net", "tests/src/sim", "tests/src/swarm", "tests/src/bin/rollcall-swarm"];

/// Most lines of a file before its tests; far fewer are the rule.
const ROOM: usize = 700;

/// Whether a file is `home.rs` or lies in `home/`.
fn lives_in(path: &str, home: &str) -> bool {
    path.strip_prefix(home).is_some_and(|rest| home.ends_with('/') || rest == ".rs" || rest.starts_with('/'))
}

fn say(source: &Source, mention: &Mention, rule: &str) -> String {
    format!("{}:{} names {}: {rule}", source.path, mention.line, mention.text())
}

pub(crate) fn borders(source: &Source) -> Vec<String> {
    let strangers: &[&str] = match source.member() {
        "agent" => &["rollcall_collector", "rollcall_tests"],
        "collector" => &["rollcall_agent", "rollcall_tests"],
        "common" => &["rollcall_agent", "rollcall_collector", "rollcall_tests"],
        _ => &[],
    };
    let strange = |mention: &&Mention| strangers.iter().any(|stranger| mention.is_within(stranger));
    let rule = "agent → common ← collector, and only tests sees all";
    source.mentions.iter().filter(strange).map(|mention| say(source, mention, rule)).collect()
}

pub(crate) fn homes(source: &Source) -> Vec<String> {
    // Tests stand outside the house and may use what they like.
    if source.member() == "tests" {
        return vec![];
    }
    let mut broken = vec![];
    for (krate, homes) in HOMES {
        if homes.iter().any(|home| lives_in(&source.path, home)) {
            continue;
        }
        let rule = format!("{krate} lives in {} only", homes.join(", "));
        let foreign =
            source.mentions.iter().filter(|mention| mention.is_within(krate) && !source.is_test(mention.line));
        broken.extend(foreign.map(|mention| say(source, mention, &rule)));
    }
    broken
}

pub(crate) fn purity(source: &Source) -> Vec<String> {
    if !source.path.starts_with("common/src/") {
        return vec![];
    }
    let impure = |mention: &&Mention| RIM.iter().any(|path| mention.is_within(path));
    let rule = "common is values and pure functions: no sockets, no tasks, no files, no environment";
    source.mentions.iter().filter(impure).map(|mention| say(source, mention, rule)).collect()
}

pub(crate) fn layers(source: &Source) -> Vec<String> {
    let mut broken = vec![];
    for (part, unseen) in BLIND.iter().filter(|(part, _)| lives_in(&source.path, part)) {
        for mention in source.mentions.iter().filter(|mention| !source.is_test(mention.line)) {
            if unseen.iter().any(|other| mention.is_within(&format!("crate::{other}"))) {
                let rule = format!("{} does not know it; see ARCHITECTURE.md, the parts", part.trim_end_matches('/'));
                broken.push(say(source, mention, &rule));
            }
        }
    }
    broken
}

pub(crate) fn sleeps(source: &Source) -> Vec<String> {
    if PACED.iter().any(|home| lives_in(&source.path, home)) {
        return vec![];
    }
    let asleep = |mention: &&Mention| {
        let in_test = source.member() == "tests" || source.is_test(mention.line);
        let sleep = ["std::thread::sleep", "tokio::time::sleep", "tokio::time::sleep_until", "thread::sleep"];
        in_test
            && sleep.iter().any(|path| mention.is_within(path))
            && !source.function_at(mention.line).is_some_and(|name| name.starts_with("until"))
    };
    let rule = "a test waits for a fact under a deadline (in a function until…), it does not sleep and hope";
    source.mentions.iter().filter(asleep).map(|mention| say(source, mention, rule)).collect()
}

pub(crate) fn exceptions(source: &Source) -> Vec<String> {
    let squeezed: String = source.code.split_whitespace().collect();
    let mut broken = vec![];
    for (attribute, _) in squeezed.match_indices("#[allow(").chain(squeezed.match_indices("#![allow(")) {
        let body = squeezed.get(attribute..).and_then(|rest| rest.split(']').next()).unwrap_or_default();
        if !body.contains("reason=") {
            broken.push(format!(
                "{} has {body}] without a reason: write #[expect(lint, reason = …)], or allow with a reason where \
                 the lint fires only sometimes",
                source.path
            ));
        }
    }
    broken
}

pub(crate) fn rooms(source: &Source) -> Vec<String> {
    let mut broken = vec![];
    // A tests.rs is the lower half of the file that names it.
    if !source.first_line.starts_with("//!") && !source.path.ends_with("/tests.rs") {
        broken.push(format!("{} does not begin with //! and what it owns", source.path));
    }
    if source.path.ends_with("/mod.rs") {
        broken.push(format!("{} is a mod.rs: put name.rs beside name/", source.path));
    }
    // A file of tests has to fit as a whole.
    let own = if source.is_test(1) { usize::MAX } else { source.tests_from - 1 };
    let lines = source.code.lines().count().min(own);
    if lines > ROOM {
        broken.push(format!("{} has {lines} lines, over {ROOM}: it is more than one room", source.path));
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bites(rule: fn(&Source) -> Vec<String>, path: &str, text: &str) -> bool {
        !rule(&Source::new(path, text)).is_empty()
    }

    #[test]
    fn borders_and_homes_bite() {
        assert!(bites(borders, "agent/src/link.rs", "use rollcall_collector::x;"));
        assert!(bites(borders, "collector/tests/x.rs", "fn f() { rollcall_agent::run() }"));
        assert!(!bites(borders, "tests/src/world.rs", "use rollcall_collector::x;"));
        assert!(bites(homes, "agent/src/session.rs", "use quinn::Connection;"));
        assert!(bites(homes, "agent/src/linked.rs", "use quinn::Connection;"));
        assert!(!bites(homes, "agent/src/link.rs", "use quinn::Connection;"));
        assert!(!bites(homes, "agent/src/link/dial.rs", "use quinn::Connection;"));
        assert!(bites(homes, "collector/src/registry.rs", "use {std::fmt, sqlx::Row};"));
        assert!(!bites(homes, "agent/src/session.rs", "#[cfg(test)]\nmod tests {\n  use quinn::Connection;\n}"));
        assert!(!bites(homes, "collector/src/store.rs", "mod redis;\nfn f() { redis::open() }"));
    }

    #[test]
    fn purity_and_layers_bite() {
        for text in ["use std::{fs, fmt};", "fn f() { std::env::var(x) }", "use std::net::{IpAddr, UdpSocket};"] {
            assert!(bites(purity, "common/src/token.rs", text), "{text}");
            assert!(!bites(purity, "agent/src/vault.rs", text), "{text}");
        }
        assert!(!bites(purity, "common/src/address.rs", "use std::net::{IpAddr, SocketAddr};"));
        assert!(bites(layers, "collector/src/store/sqlite.rs", "use crate::registry::Roster;"));
        assert!(bites(layers, "collector/src/cli/token.rs", "use crate::{store::X, config::Y};"));
        assert!(!bites(layers, "collector/src/cli.rs", "use crate::registry::X;"));
        assert!(!bites(layers, "collector/src/http.rs", "use crate::registry::Snapshot;"));
    }

    #[test]
    fn sleeps_exceptions_and_rooms_bite() {
        let nap = "use tokio::time::sleep;";
        assert!(bites(sleeps, "tests/tests/enroll.rs", nap));
        assert!(bites(sleeps, "tests/src/world.rs", "use std::thread;\nfn f() { thread::sleep(x) }"));
        assert!(bites(sleeps, "agent/src/x.rs", &format!("#[cfg(test)]\nmod tests {{ {nap} }}")));
        assert!(!bites(sleeps, "agent/src/x.rs", nap));
        assert!(!bites(sleeps, "tests/src/net.rs", nap));
        let waits = |name| format!("use tokio::time;\nasync fn {name}() {{\n  time::sleep(x).await\n}}\n");
        assert!(bites(sleeps, "tests/src/world.rs", &waits("settle")));
        assert!(!bites(sleeps, "tests/src/world.rs", &waits("until_alive")));
        assert!(bites(exceptions, "agent/src/x.rs", "#[allow(dead_code)]\nfn f() {}"));
        assert!(bites(exceptions, "agent/src/x.rs", "#![allow(\n  dead_code\n)]"));
        assert!(!bites(exceptions, "agent/src/x.rs", "#[expect(dead_code, reason = \"why\")]"));
        assert!(bites(rooms, "agent/src/x.rs", "fn f() {}"));
        assert!(bites(rooms, "agent/src/x/mod.rs", "//! x"));
        assert!(bites(rooms, "agent/src/x.rs", &format!("//! x\n{}", "\n".repeat(ROOM))));
        assert!(!bites(rooms, "agent/src/x.rs", "//! x"));
        assert!(!bites(rooms, "agent/src/x/tests.rs", "use super::*;"));
        assert!(!bites(rooms, "agent/src/x.rs", &format!("//! x\n#[cfg(test)]\nmod tests {{}}{}", "\n".repeat(ROOM))));
    }
}

//! The rules of a member's manifest.

use toml::{Table, Value};

use super::rules::HOMES;

/// Which of our own crates a member may depend on.
fn may_know(member: &str) -> &'static [&'static str] {
    match member {
        "agent" | "collector" => &["rollcall-common"],
        "tests" => &["rollcall-common", "rollcall-agent", "rollcall-collector"],
        _ => &[],
    }
}

/// What common must not even be able to name: sockets, tasks and stores.
const IMPURE: [&str; 8] = ["tokio", "tokio-util", "quinn", "axum", "hyper", "reqwest", "redis", "sqlx"];

pub(crate) fn broken_rules(member: &str, text: &str) -> Vec<String> {
    let manifest: Table = text.parse().expect("a manifest is TOML");
    let mut broken = vec![];
    let mut say = |rule: String| broken.push(format!("{member}/Cargo.toml {rule}"));
    if manifest.get("lints").and_then(|lints| lints.get("workspace")) != Some(&Value::Boolean(true)) {
        say("does not inherit the lints: write [lints] workspace = true".into());
    }
    for key in ["version", "edition", "rust-version", "license", "publish"] {
        let inherited = manifest.get("package").and_then(|package| package.get(key)?.get("workspace"));
        if inherited != Some(&Value::Boolean(true)) {
            say(format!("does not inherit {key}: write {key}.workspace = true"));
        }
    }
    for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
        let Some(dependencies) = manifest.get(section).and_then(Value::as_table) else { continue };
        for (name, wanted) in dependencies {
            if wanted.get("workspace") != Some(&Value::Boolean(true)) {
                say(format!("gives {name} a version of its own: name it in the one table of the workspace"));
            }
            if name.starts_with("rollcall-") && !may_know(member).contains(&name.as_str()) {
                say(format!("depends on {name}: agent → common ← collector, and only tests sees all"));
            }
            if member == "common" && section == "dependencies" && IMPURE.contains(&name.as_str()) {
                say(format!("depends on {name}: common has no sockets, no tasks and no files"));
            }
            let homes = HOMES.iter().find(|(krate, _)| *krate == name.replace('-', "_"));
            let here = |home: &&&str| home.starts_with(&format!("{member}/"));
            if let Some((krate, homes)) = homes
                && section == "dependencies"
                && member != "tests"
                && homes.iter().find(here).is_none()
            {
                say(format!("depends on {krate}, which lives in {} only", homes.join(", ")));
            }
            let features = wanted.get("features").and_then(Value::as_array);
            let for_tests = features.is_some_and(|f| f.iter().any(|feature| feature.as_str() == Some("test-util")));
            if for_tests && section == "dependencies" && member != "tests" {
                say(format!("turns on {name}'s test-util outside of tests"));
            }
        }
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "[package]\nversion.workspace = true\nedition.workspace = true\n\
         rust-version.workspace = true\nlicense.workspace = true\npublish.workspace = true\n\
         [lints]\nworkspace = true\n[dependencies]\n";

    #[test]
    fn each_rule_bites() {
        assert_eq!(broken_rules("agent", &format!("{GOOD}rollcall-common.workspace = true")), Vec::<String>::new());
        for (member, line, words) in [
            ("agent", "rollcall-collector.workspace = true", "depends on rollcall-collector"),
            ("collector", "rollcall-agent.workspace = true", "depends on rollcall-agent"),
            ("common", "rollcall-agent.workspace = true", "depends on rollcall-agent"),
            ("common", "tokio.workspace = true", "no sockets"),
            ("agent", "axum.workspace = true", "lives in collector/src/http only"),
            ("agent", "serde = \"1\"", "a version of its own"),
            ("agent", "rollcall-common = { workspace = true, features = [\"test-util\"] }", "test-util"),
        ] {
            let broken = broken_rules(member, &format!("{GOOD}{line}"));
            assert!(broken.iter().any(|text| text.contains(words)), "{line}: {broken:?}");
        }
        assert!(broken_rules("agent", "").iter().any(|text| text.contains("inherit the lints")));
        assert!(broken_rules("agent", "").iter().any(|text| text.contains("inherit edition")));
    }
}

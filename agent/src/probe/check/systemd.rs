//! Units of systemd, asked over the system bus. What counts is what systemd says, in its own words; the unit's main
//! process, or else its control group, is what a sudden end is noticed by.
//!
//! A service of type oneshot has done its work when it is inactive: it is judged by how its last run ended.

use std::{fmt::Write as _, io, sync::Arc};

use rollcall_common::health::Health;

use super::{
    Host, Look, Prey,
    bus::{Answer, Property, Value, ask},
    process::{by_group, open},
};
use crate::leave::{self, Whose};

const UNIT: &str = "org.freedesktop.systemd1.Unit";
const SERVICE: &str = "org.freedesktop.systemd1.Service";
const PROPERTIES: [Property; 8] = [
    (UNIT, "LoadState"),
    (UNIT, "ActiveState"),
    (UNIT, "SubState"),
    (SERVICE, "Result"),
    (SERVICE, "MainPID"),
    (SERVICE, "ControlGroup"),
    (SERVICE, "Type"),
    (UNIT, "InactiveExitTimestampMonotonic"),
];

pub(super) async fn look(unit: &str, host: &Host) -> Look {
    let asked = ask(&host.bus, "org.freedesktop.systemd1", &object(unit), &PROPERTIES).await;
    let answers = match asked {
        Ok(answers) => answers,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Look::blind(format!("no system bus at {}: does systemd run here?", host.bus.display()));
        }
        Err(error) => {
            let hint = leave::hint(&host.bus, &error, Whose::Theirs);
            return Look::blind(format!("the system bus at {}: {error}{hint}", host.bus.display()));
        }
    };
    let look = judge(unit, &answers);
    if look.alive != Some(true) {
        return look;
    }
    let prey = match (number(&answers, 4), text(&answers, 5)) {
        (Some(pid), _) if pid > 0 => hold(pid),
        (_, Some(group)) if group.len() > 1 => {
            let (group, roots) = (group.trim_start_matches('/').to_owned(), host.cgroups.clone());
            let what = format!("cgroup {group}");
            host.files.lend(&what, move || by_group(&group, &roots).prey).await.ok().flatten()
        }
        _ => None,
    };
    Look { prey, ..look }
}

fn hold(pid: u32) -> Option<Prey> {
    let pid = i32::try_from(pid).ok()?;
    // One that has ended already is systemd's to notice, any moment now.
    let fd = open(pid).ok()??;
    Some(Prey::Process(Arc::new(fd), pid))
}

/// Where systemd keeps a unit on the bus.
fn object(unit: &str) -> String {
    let mut path = String::from("/org/freedesktop/systemd1/unit/");
    for (n, byte) in unit.bytes().enumerate() {
        if byte.is_ascii_alphabetic() || (byte.is_ascii_digit() && n > 0) {
            path.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(path, "_{byte:02x}");
        }
    }
    path
}

fn text(answers: &[Answer], at: usize) -> Option<&str> {
    match answers.get(at) {
        Some(Ok(Value::Text(text))) => Some(text),
        _ => None,
    }
}

fn number(answers: &[Answer], at: usize) -> Option<u32> {
    match answers.get(at) {
        Some(Ok(Value::Number(number))) => Some(*number),
        _ => None,
    }
}

fn judge(unit: &str, answers: &[Answer]) -> Look {
    let (Some(load), Some(active)) = (text(answers, 0), text(answers, 1)) else {
        let error =
            answers.first().and_then(|answer| answer.as_ref().err()).map_or("no state was told", String::as_str);
        return Look::blind(format!("systemd tells nothing of {unit}: {error}"));
    };
    let runs = matches!(active, "active" | "reloading" | "refreshing");
    match load {
        "loaded" | "merged" => {}
        // Its file went, or was masked, while it ran: it does not start again.
        other if runs => {
            return Look { health: Health::Degraded, ..Look::well(format!("{unit} runs, and its file is {other}")) };
        }
        "not-found" => return Look::gone(format!("there is no unit {unit}")),
        other => return Look::gone(format!("unit {unit} is {other}")),
    }
    let sub = text(answers, 2).unwrap_or_default();
    let why = text(answers, 3).filter(|result| !matches!(*result, "" | "success"));
    let because = why.map(|why| format!(", {why}")).unwrap_or_default();
    let is_oneshot = text(answers, 6) == Some("oneshot");
    match active {
        "active" if sub == "elapsed" => {
            Look { health: Health::Degraded, ..Look::well(format!("{unit} has elapsed: it does not fire again")) }
        }
        "active" | "reloading" | "refreshing" => Look::well(format!("{unit} is {active} ({sub})")),
        "activating" if sub.starts_with("auto-restart") => {
            Look::gone(format!("{unit} ended and waits for its restart{because}"))
        }
        "activating" if is_oneshot => Look::well(format!("{unit} is at work ({sub})")),
        "activating" => Look { health: Health::Degraded, ..Look::well(format!("{unit} is starting ({sub})")) },
        "inactive" if is_oneshot && why.is_none() => match answers.get(7) {
            Some(Ok(Value::Long(0))) => Look { alive: None, ..Look::blind(format!("{unit} has not run yet")) },
            Some(_) | None => Look::well(format!("{unit} has done its work")),
        },
        "maintenance" => Look { health: Health::Degraded, ..Look::well(format!("{unit} is in maintenance")) },
        other => Look::gone(format!("{unit} is {other} ({sub}{because})")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(load: &str, active: &str, sub: &str, result: &str) -> Look {
        let text = |text: &str| Ok(Value::Text(text.to_owned()));
        judge("x.service", &[text(load), text(active), text(sub), text(result), Ok(Value::Number(7)), text("/x")])
    }

    fn oneshot(active: &str, sub: &str, result: &str, began: u64) -> Look {
        let text = |text: &str| Ok(Value::Text(text.to_owned()));
        let pid = Ok(Value::Number(0));
        let began = Ok(Value::Long(began));
        let (load, group, sort) = (text("loaded"), text(""), text("oneshot"));
        judge("x.service", &[load, text(active), text(sub), text(result), pid, group, sort, began])
    }

    #[test]
    fn a_oneshot_is_judged_by_how_its_last_run_ended() {
        for (look, health, alive, words) in [
            (oneshot("inactive", "dead", "success", 7), Health::Healthy, Some(true), "has done its work"),
            (oneshot("inactive", "dead", "success", 0), Health::Unchecked, None, "has not run yet"),
            (oneshot("activating", "start", "success", 7), Health::Healthy, Some(true), "is at work (start)"),
            (oneshot("active", "exited", "success", 7), Health::Healthy, Some(true), "is active (exited)"),
            (oneshot("failed", "failed", "timeout", 7), Health::Unhealthy, Some(false), "is failed (failed, timeout)"),
            (
                oneshot("activating", "auto-restart", "exit-code", 7),
                Health::Unhealthy,
                Some(false),
                "waits for its restart, exit-code",
            ),
        ] {
            assert_eq!((look.health, look.alive), (health, alive), "{}", look.words);
            assert!(look.words.ends_with(words), "{}", look.words);
        }
    }

    #[test]
    fn what_systemd_says_is_what_counts() {
        for (state, health, alive, words) in [
            (("loaded", "active", "running", "success"), Health::Healthy, Some(true), "x.service is active (running)"),
            (
                ("loaded", "failed", "failed", "exit-code"),
                Health::Unhealthy,
                Some(false),
                "x.service is failed (failed, exit-code)",
            ),
            (("loaded", "inactive", "dead", "success"), Health::Unhealthy, Some(false), "x.service is inactive (dead)"),
            (
                ("loaded", "activating", "start-pre", ""),
                Health::Degraded,
                Some(true),
                "x.service is starting (start-pre)",
            ),
            (
                ("loaded", "activating", "auto-restart", "signal"),
                Health::Unhealthy,
                Some(false),
                "x.service ended and waits for its restart, signal",
            ),
            (("not-found", "inactive", "dead", ""), Health::Unhealthy, Some(false), "there is no unit x.service"),
            (("masked", "inactive", "dead", ""), Health::Unhealthy, Some(false), "unit x.service is masked"),
            (("bad-setting", "inactive", "dead", ""), Health::Unhealthy, Some(false), "unit x.service is bad-setting"),
            (
                ("masked", "active", "running", ""),
                Health::Degraded,
                Some(true),
                "x.service runs, and its file is masked",
            ),
            (
                ("not-found", "active", "running", ""),
                Health::Degraded,
                Some(true),
                "x.service runs, and its file is not-found",
            ),
            (("loaded", "active", "listening", ""), Health::Healthy, Some(true), "x.service is active (listening)"),
            (
                ("loaded", "active", "elapsed", ""),
                Health::Degraded,
                Some(true),
                "x.service has elapsed: it does not fire again",
            ),
            (
                ("loaded", "deactivating", "stop-sigterm", "success"),
                Health::Unhealthy,
                Some(false),
                "x.service is deactivating (stop-sigterm)",
            ),
        ] {
            let look = told(state.0, state.1, state.2, state.3);
            assert_eq!((look.health, look.alive, look.words.as_str()), (health, alive, words));
        }
        let refused: Vec<Answer> = vec![Err("org.freedesktop.DBus.Error.AccessDenied".to_owned())];
        assert_eq!(judge("x.service", &refused).health, Health::Unchecked);
        assert_eq!(object("a-1@b.service"), "/org/freedesktop/systemd1/unit/a_2d1_40b_2eservice");
        assert_eq!(object("1.target"), "/org/freedesktop/systemd1/unit/_31_2etarget");
    }
}

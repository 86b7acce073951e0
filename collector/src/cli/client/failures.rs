//! What a failed request means, in words that name the fix.

use std::path::Path;

use reqwest::StatusCode;
use serde_json::Value;

use super::super::{
    Exit, Failure,
    reach::{Origin, Target, shown},
};

/// What every problem document has; whatever else it holds is told in lines of its own.
const COMMON: [&str; 6] = ["type", "title", "status", "detail", "code", "request_id"];
/// Longest text of a member that is told.
const MAX_TOLD: usize = 400;

impl Target {
    /// The collector was not reached, or the conversation broke off.
    pub(super) fn unreachable(&self, error: &reqwest::Error) -> Failure {
        if error.is_timeout() {
            return self.silent();
        }
        let causes = causes(error);
        // The error's own words repeat the URL; its innermost cause says what happened.
        let cause = causes.last().cloned().unwrap_or_default();
        if !error.is_connect() {
            let message = format!("the conversation with the collector at {} broke off: {cause}", shown(&self.api));
            return Failure::new(Exit::Unreachable, message);
        }
        let certificate = causes.iter().any(|cause| cause.contains("certificate") || cause.contains("UnknownIssuer"));
        let hint = if let Some(socket) = self.socket() {
            let denied = causes.iter().any(|cause| cause.contains("ermission denied"));
            if denied {
                format!(
                    "{} is for root and the collector's own user and group: use sudo, or name another way with --api \
                     and --credential-file",
                    socket.display()
                )
            } else {
                format!(
                    "is it running? The socket is the collector's ({}); start it with `systemctl start \
                     rollcall-collector` or `rollcall-collector serve`, or name another way with --api",
                    named_by(&self.origin)
                )
            }
        } else if certificate {
            match &self.ca_file {
                Some(path) => format!(
                    "its certificate is not vouched for by {}: name the right file with --ca-file or ROLLCALL_CA_FILE",
                    path.display()
                ),
                None => "where its certificate is from a CA of your own, name that with --ca-file or \
                         ROLLCALL_CA_FILE"
                    .to_owned(),
            }
        } else if causes.iter().any(|cause| cause.contains("corrupt message") || cause.contains("InvalidContentType")) {
            "it does not speak TLS there: try http:// on its own host".to_owned()
        } else {
            format!(
                "is it running? Start it with `systemctl start rollcall-collector` or `rollcall-collector serve`, or \
                 name another one with --api, ROLLCALL_API or --context ({})",
                named_by(&self.origin)
            )
        };
        Failure::new(Exit::Unreachable, format!("cannot reach the collector at {}: {cause}\n{hint}", shown(&self.api)))
    }

    /// What else there is for whoever stands on the collector's host with a credential that has ended.
    fn other_way(&self) -> String {
        if self.credential_origin != Origin::Default {
            return String::new();
        }
        "\nit ends after a day: as root on this host use --api unix:/run/rollcall-collector/admin.sock (the socket in its \
         state directory where systemd did not start it), or `rollcall-collector login-code` and `login`"
            .to_owned()
    }

    /// No answer came in time.
    pub(super) fn silent(&self) -> Failure {
        let message = format!("the collector at {} did not answer in time", shown(&self.api));
        Failure::new(Exit::Unreachable, message)
    }

    /// Something answered that is no collector.
    pub(super) fn strange(&self, what: &str) -> Failure {
        let hint = if self.api.scheme() == "http" { ", and does it speak http://" } else { "" };
        let message = format!("{} gave {what}: is it a Rollcall collector{hint}?", shown(&self.api));
        Failure::new(Exit::Unreachable, message)
    }

    /// The collector refused.
    pub(super) fn refused(&self, status: StatusCode, body: &[u8]) -> Failure {
        let Ok(document) = serde_json::from_slice::<Value>(body) else {
            return self.strange(&format!("an answer that is no JSON, with status {status}"));
        };
        let text = |name: &str| document.get(name).and_then(Value::as_str).map(clean);
        let detail = text("detail").or_else(|| text("title")).unwrap_or_else(|| "no reason was given".into());
        let request = text("request_id").map(|id| format!(", request {id}")).unwrap_or_default();
        let code = text("code").map(|code| format!(" ({code}{request})")).unwrap_or_default();
        let mut message = match status {
            // The body proved something, not a credential.
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => match (&self.credential_file, status) {
                (Some(file), StatusCode::UNAUTHORIZED) if file != Path::new("/dev/null") => format!(
                    "the collector at {} did not accept the credential in {} ({}): {detail}{code}{}",
                    shown(&self.api),
                    file.display(),
                    named_by(&self.credential_origin),
                    self.other_way()
                ),
                (Some(file), StatusCode::FORBIDDEN) => format!(
                    "{detail}{code}\nthe credential is the one in {} ({}); name one that may with --credential-file or \
                     --context",
                    file.display(),
                    named_by(&self.credential_origin)
                ),
                (None, StatusCode::FORBIDDEN) => format!(
                    "{detail}{code}\nover {} ({}) the kernel says who you are: run as root or as the collector's own \
                     user, or name a credential with --credential-file",
                    shown(&self.api),
                    named_by(&self.origin)
                ),
                _ => format!("{detail}{code}"),
            },
            _ => format!("{detail}{code}"),
        };
        for (name, value) in members(&document) {
            message.push_str(&format!("\n  {name}: {value}"));
        }
        let passes = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT);
        let exit = if status.is_server_error() || passes { Exit::Unreachable } else { Exit::Refused };
        let code = document.get("code").and_then(Value::as_str).map(clean);
        Failure { code, ..Failure::new(exit, message) }
    }
}

fn named_by(origin: &Origin) -> String {
    match origin {
        Origin::Default => "by default".into(),
        Origin::Flag(_) | Origin::Variable(_) | Origin::Context(_) | Origin::Host(_) => format!("named by {origin}"),
    }
}

/// What a problem document says beyond what all of them say.
fn members(document: &Value) -> impl Iterator<Item = (String, String)> {
    let members = document.as_object().into_iter().flatten();
    members.filter(|(name, value)| !COMMON.contains(&name.as_str()) && !value.is_null()).map(|(name, value)| {
        let told = match value {
            Value::String(text) => clean(text),
            Value::Array(items) if items.iter().all(Value::is_string) => {
                items.iter().filter_map(Value::as_str).map(clean).collect::<Vec<_>>().join(", ")
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                clean(value.to_string())
            }
        };
        let told = if told.chars().count() > MAX_TOLD {
            format!("{} …", told.chars().take(MAX_TOLD).collect::<String>())
        } else {
            told
        };
        (clean(name), told)
    })
}

/// Without what could move a terminal's cursor.
fn clean(text: impl AsRef<str>) -> String {
    text.as_ref().chars().filter(|c| !c.is_control()).collect()
}

fn causes(error: &dyn std::error::Error) -> Vec<String> {
    std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn target() -> Target {
        Target {
            api: "http://127.0.0.1:7410".parse().unwrap(),
            origin: Origin::Default,
            credential_file: Some("/c".into()),
            credential_origin: Origin::Variable("ROLLCALL_CREDENTIAL_FILE"),
            ca_file: None,
        }
    }

    fn refused(status: u16, document: &Value) -> Failure {
        target().refused(StatusCode::from_u16(status).unwrap(), document.to_string().as_bytes())
    }

    #[test]
    fn a_problem_is_told_with_everything_it_says() {
        let document = json!({
            "type": "urn:x", "title": "t", "status": 400, "detail": "no such\u{1b}[2J word", "code": "invalid_query",
            "request_id": "r1", "parameter": "status", "allowed": ["a", "b"], "fields": {"x": "y"},
        });
        let failure = refused(400, &document);
        assert_eq!(failure.exit(), Exit::Refused);
        let lines: Vec<String> = failure.to_string().lines().map(str::to_owned).collect();
        assert_eq!(
            lines,
            [
                "no such[2J word (invalid_query, request r1)",
                "  allowed: a, b",
                "  fields: {\"x\":\"y\"}",
                "  parameter: status"
            ]
        );
    }

    #[test]
    fn refused_credentials_are_named() {
        let document = json!({"detail": "unknown", "code": "unauthenticated"});
        for status in [401, 403] {
            let text = refused(status, &document).to_string();
            assert!(text.contains("/c (named by ROLLCALL_CREDENTIAL_FILE)"), "{text}");
        }
    }

    #[test]
    fn what_passes_by_itself_is_no_refusal() {
        for (status, exit) in [
            (400, Exit::Refused),
            (401, Exit::Refused),
            (404, Exit::Refused),
            (409, Exit::Refused),
            (422, Exit::Refused),
            (429, Exit::Unreachable),
            (500, Exit::Unreachable),
            (503, Exit::Unreachable),
        ] {
            assert_eq!(refused(status, &json!({})).exit(), exit, "{status}");
        }
        let odd = target().refused(StatusCode::BAD_GATEWAY, b"<html>");
        assert!(odd.to_string().contains("is it a Rollcall collector"), "{odd}");
    }
}

//! In which form metrics are answered, and the older of the two.
//!
//! OpenMetrics is what is printed; the text format 0.0.4 follows from it line by line. In both a counter's
//! samples end in `_total`; only OpenMetrics leaves that off its head, and only it has an end mark. Pure.

use std::fmt::Write as _;

use axum::http::{HeaderMap, header};

/// A form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// OpenMetrics 1.0.
    Open,
    /// Prometheus' text format 0.0.4.
    Plain,
}

impl Form {
    /// As `Content-Type` says it.
    pub(super) fn media_type(self) -> &'static str {
        match self {
            Self::Open => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Plain => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// What a caller wants, by `Accept` with its weights. OpenMetrics must be asked for: whoever takes anything, or
    /// nothing that there is, gets the older form, which everything that reads metrics can read.
    pub(super) fn wanted(headers: &HeaderMap) -> Self {
        let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let ranges: Vec<Range<'_>> = values.flat_map(|value| value.split(',')).filter_map(Range::read).collect();
        let best = |form: Self| {
            let fits = ranges.iter().filter_map(|range| Some((range.precision(form)?, range.weight)));
            // The most precise range decides about a form, however much a vaguer one likes it.
            fits.max().unwrap_or((0, 0))
        };
        let ((precision, open), (_, plain)) = (best(Self::Open), best(Self::Plain));
        if open > 0 && (open > plain || (open == plain && precision >= NAMED)) { Self::Open } else { Self::Plain }
    }
}

/// The precision of a range that names a type in full.
const NAMED: u8 = 3;

/// One part of an `Accept` header.
#[derive(Debug)]
struct Range<'a> {
    kind: &'a str,
    sub: &'a str,
    version: Option<&'a str>,
    /// In thousandths.
    weight: u16,
}

impl<'a> Range<'a> {
    fn read(text: &'a str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let (kind, sub) = parts.next()?.split_once('/')?;
        let mut range = Self { kind, sub, version: None, weight: 1_000 };
        for part in parts {
            let Some((name, value)) = part.split_once('=') else { continue };
            let value = value.trim().trim_matches('"');
            if name.trim().eq_ignore_ascii_case("q") {
                range.weight = weight(value)?;
            } else if name.trim().eq_ignore_ascii_case("version") {
                range.version = Some(value);
            }
        }
        Some(range)
    }

    /// How precisely it means a form; `None` = it does not.
    fn precision(&self, form: Form) -> Option<u8> {
        let (kind, sub, version) = match form {
            Form::Open => ("application", "openmetrics-text", "1.0.0"),
            Form::Plain => ("text", "plain", "0.0.4"),
        };
        if (self.kind, self.sub) == ("*", "*") {
            return Some(1);
        }
        if !self.kind.eq_ignore_ascii_case(kind) {
            return None;
        }
        match (self.sub, self.version) {
            ("*", _) => Some(2),
            (named, None) if named.eq_ignore_ascii_case(sub) => Some(NAMED),
            (named, Some(wanted)) if named.eq_ignore_ascii_case(sub) && wanted == version => Some(NAMED + 1),
            (_, _) => None,
        }
    }
}

/// `0` to `1` with up to three digits behind the point, in thousandths.
fn weight(text: &str) -> Option<u16> {
    let (whole, rest) = text.split_once('.').unwrap_or((text, ""));
    if rest.len() > 3 || !rest.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let thousandths = format!("{rest:0<3}").parse::<u16>().ok()?;
    match whole {
        "0" => Some(thousandths),
        "1" if thousandths == 0 => Some(1_000),
        _ => None,
    }
}

/// OpenMetrics as the text format 0.0.4.
pub(super) fn plain(open: &str) -> String {
    let mut text = String::with_capacity(open.len());
    let mut help = None;
    for line in open.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            // What the family is called depends on its type, which comes behind.
            help = rest.split_once(' ');
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.rsplit_once(' ')) {
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "stateset" => ("", "gauge"),
                "unknown" => ("", "untyped"),
                other => ("", other),
            };
            // Writing to a String cannot fail.
            if let Some((_, about)) = help.take().filter(|(named, _)| *named == name) {
                let _ = writeln!(text, "# HELP {name}{suffix} {about}");
            }
            let _ = writeln!(text, "# TYPE {name}{suffix} {kind}");
        } else if !line.starts_with('#') {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn wanted(values: &[&str]) -> Form {
        let pairs = values.iter().map(|value| (header::ACCEPT, HeaderValue::from_str(value).unwrap()));
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name, value);
        }
        Form::wanted(&headers)
    }

    #[test]
    fn the_header_decides() {
        let prometheus_2 = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                            text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let prometheus_3 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                            application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;q=0.4,\
                            text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for accept in [
            &[prometheus_2][..],
            &[prometheus_3],
            &["application/openmetrics-text"],
            &["Application/OpenMetrics-Text; Version=\"1.0.0\"; charset=utf-8"],
            &["text/plain;q=0.999, application/openmetrics-text"],
            &["text/plain", "application/openmetrics-text"],
            &["text/plain;q=0, */*"],
            &["application/*"],
        ] {
            assert_eq!(wanted(accept), Form::Open, "{accept:?}");
        }
        for accept in [
            &[][..],
            &["*/*"],
            &["text/*"],
            &["text/plain; version=0.0.4"],
            &["text/plain, application/openmetrics-text;q=0.9"],
            &["application/openmetrics-text;version=2.0.0, text/plain;q=0.1"],
            &["application/openmetrics-text;q=0"],
            &["application/openmetrics-text;q=0, */*"],
            &["application/openmetrics-text;q=2"],
            &["application/openmetrics-text;q=0.0001"],
            &["text/html"],
            &["application/json;q=0.5, text/html"],
            &["nonsense", ";;;", "q=1", "/"],
        ] {
            assert_eq!(wanted(accept), Form::Plain, "{accept:?}");
        }
    }

    #[test]
    fn only_the_head_of_a_counter_differs() {
        let open = "# HELP a_b Things: all of them.\n# TYPE a_b counter\na_b_total{x=\"# TYPE y counter\"} 1\n\
                    # HELP c_seconds Time.\n# TYPE c_seconds histogram\n# UNIT c_seconds seconds\nc_seconds_sum 1.0\n\
                    # HELP d Odd.\n# TYPE d unknown\nd 1\n# EOF\n";
        assert_eq!(
            plain(open),
            "# HELP a_b_total Things: all of them.\n# TYPE a_b_total counter\na_b_total{x=\"# TYPE y counter\"} 1\n\
             # HELP c_seconds Time.\n# TYPE c_seconds histogram\nc_seconds_sum 1.0\n\
             # HELP d Odd.\n# TYPE d untyped\nd 1\n"
        );
    }

    proptest! {
        #[test]
        fn nothing_that_is_sent_does_harm(text in "[ -~]{0,80}", exposition in "\\PC{0,200}") {
            wanted(&[&text]);
            plain(&exposition);
        }
    }
}

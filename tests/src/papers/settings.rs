//! Section 5: every setting with its default, made from the commented configuration in `packaging/config`.
//!
//! Its form is the one that `tests/packaging` holds it to: prose after `# `, a setting or a table directly after
//! `#`, an empty line between one matter and the next.

use std::fmt::Write as _;

use super::{Edition, manual::escaped};

/// One matter: what is said, then the lines that it is said of.
#[derive(Debug, Default, PartialEq, Eq)]
struct Matter {
    prose: Vec<String>,
    lines: Vec<String>,
}

fn matters(text: &str) -> Vec<Matter> {
    let mut all = vec![Matter::default()];
    for line in text.lines() {
        let Some(rest) = line.strip_prefix('#').filter(|rest| !rest.trim().is_empty()) else {
            all.push(Matter::default());
            continue;
        };
        let is_setting = rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[');
        let begins_anew = |matter: &Matter| !is_setting && !matter.lines.is_empty();
        if all.last().is_none_or(begins_anew) {
            all.push(Matter::default());
        }
        if let Some(matter) = all.last_mut() {
            if is_setting { matter.lines.push(rest.into()) } else { matter.prose.push(rest.trim().into()) }
        }
    }
    all.retain(|matter| *matter != Matter::default());
    all
}

/// The page of a configuration file.
#[must_use]
pub fn page(name: &str, program: &str, text: &str, edition: &Edition) -> String {
    let mut all = matters(text);
    // The file's own first words are its name and place.
    let title = (!all.is_empty()).then(|| all.remove(0)).map(|first| first.prose.join(" ")).unwrap_or_default();
    let intro = all.first().is_some_and(|first| first.lines.is_empty()).then(|| all.remove(0));
    let mut page = format!(
        ".TH {} 5 \"{}\" \"Rollcall {}\" \"File Formats\"\n.SH NAME\n{} \\- configuration of {}\n.SH DESCRIPTION\n{}\n",
        name.to_uppercase(),
        edition.date,
        edition.version,
        escaped(name),
        escaped(program),
        escaped(&title)
    );
    if let Some(intro) = intro {
        let _ = write!(page, ".PP\n{}\n", escaped(&intro.prose.join(" ")));
    }
    page.push_str(".SH SETTINGS\n");
    for Matter { prose, mut lines } in all {
        let prose = escaped(prose.join(" ").trim());
        // A table of its own gets a heading; what is said of it stands below that.
        let headed = lines.first().is_some_and(|line| line.starts_with('[')).then(|| lines.remove(0));
        if let Some(table) = &headed {
            let bare = table.split('#').next().unwrap_or_default().trim();
            let _ = write!(page, ".SS {}\n{prose}\n", escaped(bare));
        }
        if lines.is_empty() {
            if headed.is_none() {
                let _ = write!(page, ".PP\n{prose}\n");
            }
            continue;
        }
        let tag = if headed.is_some() { ".PP\n" } else { ".TP\n" };
        page.push_str(tag);
        if headed.is_some() {
            page.push_str(".nf\n");
        }
        for (n, line) in lines.iter().enumerate() {
            if headed.is_none() && n > 0 {
                page.push_str(".TQ\n");
            }
            let _ = writeln!(page, "\\fB{}\\fR", escaped(line));
        }
        page.push_str(&if headed.is_some() { ".fi\n".to_owned() } else { format!("{prose}\n") });
    }
    let _ = write!(page, ".SH SEE ALSO\n\\fB{}\\fR(8)\n", escaped(program));
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_tables_and_what_is_said_of_them() {
        let text = "# The file: /etc/x.toml\n#\n# All of it.\n\n# The name.\n#name = \"a-b\"\n\n# Both.\n#from = 1\n#to = 2\n\n\
                    # A table.\n#[feed]\n#events = 3\n# More.\n#more = 4\n";
        let edition = Edition { version: "1".into(), date: "d".into(), root: ".".into() };
        let page = page("x.toml", "x", text, &edition);
        assert!(page.contains(".TP\n\\fBname = \"a\\-b\"\\fR\nThe name.\n"), "{page}");
        assert!(page.contains(".TP\n\\fBfrom = 1\\fR\n.TQ\n\\fBto = 2\\fR\nBoth.\n"), "{page}");
        assert!(page.contains(".SS [feed]\nA table.\n.PP\n.nf\n\\fBevents = 3\\fR\n.fi\n"), "{page}");
        assert!(page.contains("\\fBmore = 4\\fR\nMore.\n"), "{page}");
    }
}

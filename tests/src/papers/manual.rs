//! Section 8: a page for each command, made from the very command line that the program parses.

use anyhow::Result;
use clap_mangen::Man;

use super::Edition;

/// The pages of a program, each with its file's name.
///
/// # Errors
/// When a page cannot be written, which a `Vec` always can.
pub fn pages(grammar: &clap::Command, edition: &Edition) -> Result<Vec<(String, Vec<u8>)>> {
    let mut grammar = grammar.clone().disable_help_subcommand(true);
    grammar.build();
    let mut pages = Vec::new();
    add(&grammar, grammar.get_name().to_owned(), edition, &mut pages)?;
    Ok(pages)
}

fn add(command: &clap::Command, name: String, edition: &Edition, pages: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help") {
        add(sub, format!("{name}-{}", sub.get_name()), edition, pages)?;
    }
    // Its line breaks are meant: examples and lists, which a formatter would run together.
    let extra = command.get_after_long_help().or(command.get_after_help()).map(ToString::to_string);
    let man = Man::new(command.clone())
        .title(name.to_uppercase())
        .section("8")
        .date(edition.date.clone())
        .source(format!("Rollcall {}", edition.version))
        .manual("System Administration");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    // `man -k` looks for the dashed name, which the command itself does not have.
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    page.extend(format!(".SH NAME\n{} \\- {}\n", escaped(&name), escaped(about.trim_end_matches('.'))).bytes());
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    if command.get_arguments().any(|arg| !arg.is_hide_set()) {
        man.render_options_section(&mut page)?;
    }
    if command.get_subcommands().any(|sub| !sub.is_hide_set() && sub.get_name() != "help") {
        man.render_subcommands_section(&mut page)?;
    }
    if let Some(extra) = extra {
        page.extend(verbatim("NOTES", &extra).bytes());
    }
    page.extend(see_also(&name).bytes());
    pages.push((format!("{name}.8"), page));
    Ok(())
}

fn see_also(name: &str) -> String {
    let program = if name.starts_with("rollcall-agent") { "rollcall-agent" } else { "rollcall-collector" };
    let page = |name: &str, section: u8| format!("\\fB{}\\fR({section})", escaped(name));
    let others = if name == program { page(&format!("{program}.toml"), 5) } else { page(program, 8) };
    format!(".SH SEE ALSO\n{others}\n")
}

/// Text as it stands, line for line.
#[must_use]
pub fn verbatim(title: &str, text: &str) -> String {
    let lines: String = text.trim_end().lines().map(|line| escaped(line) + "\n").collect();
    format!(".SH {title}\n.nf\n{lines}.fi\n")
}

/// Text that roff prints as it is, wherever in a line it stands.
#[must_use]
pub fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('…', "...");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_that_names_it() {
        let edition = Edition { version: "1.2.3".into(), date: "2026-01-02".into(), root: ".".into() };
        let pages = pages(&rollcall_collector::cli::grammar(), &edition).unwrap();
        let text = |name: &str| {
            let (_, page) = pages.iter().find(|(have, _)| have == name).expect("a page");
            String::from_utf8(page.clone()).unwrap()
        };
        let revoke = text("rollcall-collector-services-revoke.8");
        assert!(revoke.contains(".SH NAME\nrollcall\\-collector\\-services\\-revoke \\- "), "{revoke}");
        assert!(text("rollcall-collector.8").contains("ROLLCALL_API"));
        assert!(text("rollcall-collector.8").contains("\\fBrollcall\\-collector.toml\\fR(5)"));
    }

    #[test]
    fn roff_takes_no_orders_from_text() {
        assert_eq!(escaped(".so /etc/shadow"), "\\&.so /etc/shadow");
        assert_eq!(escaped("a\\b --c"), "a\\eb \\-\\-c");
    }
}

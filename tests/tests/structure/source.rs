//! A Rust file as the rules see it: the paths that it names, with their lines; no comments, no strings.
//!
//! A reader of tokens, not a compiler: macros and conditional compilation are read as they stand, and a
//! glob import hides what it brings. That is enough to find a crate that moved into the wrong room.

use std::{collections::BTreeMap, iter::Peekable};

/// One file.
pub(crate) struct Source {
    /// From the root of the repository, with slashes.
    pub(crate) path: String,
    /// The text, with comments, strings and characters blanked out; lines stand where they stood.
    pub(crate) code: String,
    /// The first line as it was.
    pub(crate) first_line: String,
    /// Every path of two segments or more and every import, written out from its root.
    pub(crate) mentions: Vec<Mention>,
    /// The line on which the unit tests begin; past the end where there are none.
    pub(crate) tests_from: usize,
    /// The modules of other files that it declares for tests only, by their path without an ending.
    pub(crate) test_modules: Vec<String>,
}

/// A path somewhere in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mention {
    pub(crate) line: usize,
    pub(crate) segments: Vec<String>,
}

impl Mention {
    /// Whether it leads to the given path or into it.
    pub(crate) fn is_within(&self, path: &str) -> bool {
        let mut mine = self.segments.iter();
        path.split("::").all(|wanted| mine.next().is_some_and(|segment| segment == wanted))
    }

    pub(crate) fn text(&self) -> String {
        self.segments.join("::")
    }
}

impl Source {
    pub(crate) fn new(path: impl Into<String>, text: &str) -> Self {
        let (path, code) = (path.into(), blank(text));
        // `tests/` is nothing but tests; src/tests.rs and the like are found by whoever declares them.
        let tests_from = match path.contains("/tests/") {
            true => 1,
            false => code.lines().position(opens_tests).map_or(usize::MAX, |index| index + 1),
        };
        Self {
            test_modules: test_modules(&path, &code),
            mentions: mentions(&code),
            first_line: text.lines().next().unwrap_or_default().into(),
            path,
            code,
            tests_from,
        }
    }

    /// Takes a file that another one declares for tests only as a test from its first line.
    pub(crate) fn declared_by(mut self, test_modules: &[String]) -> Self {
        let is_within = |module: &String| {
            let rest = self.path.strip_prefix(module.as_str());
            rest.is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
        };
        if test_modules.iter().any(is_within) {
            self.tests_from = 1;
        }
        self
    }

    /// The member of the workspace that it belongs to.
    pub(crate) fn member(&self) -> &str {
        self.path.split('/').next().unwrap_or_default()
    }

    /// The function that stands above a line.
    pub(crate) fn function_at(&self, line: usize) -> Option<&str> {
        let above = self.code.lines().take(line).collect::<Vec<_>>();
        above.iter().rev().find_map(|line| {
            let (_, name) = line.split_once("fn ")?;
            name.split(|c: char| !c.is_alphanumeric() && c != '_').next()
        })
    }

    /// Whether a line belongs to a test: a test target, a module for tests, or the end of a file.
    pub(crate) fn is_test(&self, line: usize) -> bool {
        line >= self.tests_from
    }
}

fn is_for_tests(line: &str) -> bool {
    let line = line.trim_start();
    line.starts_with("#[cfg(test)]") || line.starts_with("#[cfg(any(test,")
}

/// Whether a line opens the unit tests at the end of a file.
fn opens_tests(line: &str) -> bool {
    line.starts_with("mod tests {")
}

/// The modules in other files that stand behind a test attribute.
fn test_modules(path: &str, code: &str) -> Vec<String> {
    let stem = path.trim_end_matches(".rs");
    let folder = match stem.rsplit_once('/') {
        Some((folder, "lib" | "main")) => folder,
        Some(_) | None => stem,
    };
    let lines = code.lines().zip(code.lines().skip(1));
    lines
        .filter(|(attribute, _)| is_for_tests(attribute))
        .filter_map(|(_, declaration)| {
            let (_, name) = declaration.strip_suffix(';')?.rsplit_once("mod ")?;
            Some(format!("{folder}/{name}"))
        })
        .collect()
}

#[derive(Debug, PartialEq)]
enum Token<'a> {
    Word(&'a str),
    PathSeparator,
    Mark(char),
}

fn mentions(code: &str) -> Vec<Mention> {
    let mut tokens = tokens(code).into_iter().peekable();
    let (mut imports, mut plain) = (vec![], vec![]);
    // What a first segment stands for within this file.
    let mut names: BTreeMap<String, Vec<String>> = BTreeMap::new();
    while let Some((line, token)) = tokens.next() {
        match token {
            // `impl Trait + use<'a>` names what it captures, and imports nothing.
            Token::Word("use") if tokens.peek().is_some_and(|(_, token)| *token == Token::Mark('<')) => {}
            Token::Word("use") => import(&mut tokens, vec![], &mut imports, &mut names),
            Token::Word("mod") => {
                if let Some((_, Token::Word(name))) = tokens.peek() {
                    names.insert((*name).into(), vec!["self".into(), (*name).into()]);
                }
            }
            Token::Word(word) => {
                let mut segments = vec![word.to_owned()];
                while tokens.next_if(|(_, token)| *token == Token::PathSeparator).is_some() {
                    let Some((_, Token::Word(word))) = tokens.next_if(|(_, token)| matches!(token, Token::Word(_)))
                    else {
                        break;
                    };
                    segments.push(word.to_owned());
                }
                if segments.len() > 1 {
                    plain.push(Mention { line, segments });
                }
            }
            Token::Mark('.') => {
                // A field or a method starts no path.
                tokens.next_if(|(_, token)| matches!(token, Token::Word(_)));
            }
            Token::PathSeparator | Token::Mark(_) => {}
        }
    }
    for mention in &mut plain {
        if let Some(root) = mention.segments.first().and_then(|first| names.get(first)) {
            mention.segments = root.iter().chain(mention.segments.iter().skip(1)).cloned().collect();
        }
    }
    imports.extend(plain);
    imports.sort_by_key(|mention| mention.line);
    imports
}

/// Reads one tree of an import up to its comma, brace or semicolon.
fn import<'a>(
    tokens: &mut Peekable<impl Iterator<Item = (usize, Token<'a>)>>,
    mut prefix: Vec<String>,
    found: &mut Vec<Mention>,
    names: &mut BTreeMap<String, Vec<String>>,
) {
    let mut at = 0;
    while let Some((line, token)) = tokens.next_if(|(_, token)| !matches!(token, Token::Mark(',' | '}' | ';'))) {
        at = line;
        match token {
            Token::Word("as") => {
                if let Some((_, Token::Word(alias))) = tokens.next() {
                    names.insert(alias.into(), prefix.clone());
                }
            }
            Token::Word("self") if !prefix.is_empty() => {}
            Token::Word(word) => prefix.push(word.into()),
            Token::Mark('{') => {
                while tokens.peek().is_some_and(|(_, token)| *token != Token::Mark('}')) {
                    import(tokens, prefix.clone(), found, names);
                    // What is no part of an import is passed over, so that each turn takes something.
                    tokens.next_if(|(_, token)| matches!(token, Token::Mark(',' | ';')));
                }
                tokens.next();
                return;
            }
            Token::PathSeparator | Token::Mark(_) => {}
        }
    }
    if let (true, Some(last)) = (prefix.len() > 1, prefix.last()) {
        names.entry(last.clone()).or_insert_with(|| prefix.clone());
    }
    if !prefix.is_empty() {
        found.push(Mention { line: at, segments: prefix });
    }
}

fn tokens(code: &str) -> Vec<(usize, Token<'_>)> {
    let mut out = vec![];
    for (index, line) in code.lines().enumerate() {
        let mut rest = line;
        while let Some(first) = rest.chars().next() {
            let is_word = |c: char| c.is_alphanumeric() || c == '_';
            let token = if is_word(first) {
                let (word, tail) = rest.split_at(rest.find(|c| !is_word(c)).unwrap_or(rest.len()));
                rest = tail;
                Token::Word(word)
            } else if let Some(tail) = rest.strip_prefix("::") {
                rest = tail;
                Token::PathSeparator
            } else {
                rest = rest.split_at(first.len_utf8()).1;
                if first.is_whitespace() {
                    continue;
                }
                Token::Mark(first)
            };
            out.push((index + 1, token));
        }
    }
    out
}

/// Replaces comments, strings and characters by blanks, line by line.
fn blank(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = opaque_length(rest, out.chars().next_back());
        let (skipped, tail) = rest.split_at(length.max(first.len_utf8()));
        if length == 0 {
            out.push_str(skipped);
        } else {
            out.extend(skipped.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        }
        rest = tail;
    }
    out
}

/// How many bytes of a comment, string or character start here; 0 where code does.
fn opaque_length(rest: &str, before: Option<char>) -> usize {
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return rest.find("*/").map_or(rest.len(), |at| at + 2);
    }
    let in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let raw = rest.strip_prefix("br").or_else(|| rest.strip_prefix('r')).filter(|_| !in_word);
    if let Some(raw) = raw {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        let (marks, body) = raw.split_at(hashes);
        if body.starts_with('"') {
            let opening = rest.len() - body.len() + 1;
            let end = format!("\"{marks}");
            return body.get(1..).and_then(|body| body.find(&end)).map_or(rest.len(), |at| opening + at + end.len());
        }
    }
    if rest.starts_with('"') {
        return quoted_length(rest, '"');
    }
    let mut chars = rest.chars();
    match (chars.next(), chars.next(), chars.next()) {
        (Some('\''), Some('\\'), _) => quoted_length(rest, '\''),
        (Some('\''), Some(c), Some('\'')) => 2 + c.len_utf8(),
        _ => 0,
    }
}

/// The length of a quoted text with escapes, quotes included.
fn quoted_length(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            '\\' if !escaped => escaped = true,
            c if c == quote && !escaped => return at + 1,
            _ => escaped = false,
        }
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(text: &str) -> Vec<String> {
        Source::new("a/src/b.rs", text).mentions.iter().map(Mention::text).collect()
    }

    #[test]
    fn imports_are_written_out() {
        assert_eq!(paths("use std::{fs, net::{self, UdpSocket}};"), ["std::fs", "std::net", "std::net::UdpSocket"]);
        assert_eq!(paths("pub(crate) use quinn;"), ["quinn"]);
        assert_eq!(paths("use {a::b, c::d as e};"), ["a::b", "c::d"]);
        assert_eq!(paths("use a::b::*;"), ["a::b"]);
        assert_eq!(paths("fn f() -> impl A + use<> { g(); h::i() }"), ["h::i"]);
        assert_eq!(paths("use a::{b; c::d};"), ["a::b", "a::c::d"]);
    }

    #[test]
    fn first_segments_are_followed_home() {
        assert_eq!(paths("use tokio::time;\nfn f() { time::sleep(x) }"), ["tokio::time", "tokio::time::sleep"]);
        assert_eq!(paths("use tokio::time as t;\nfn f() { t::sleep(x) }"), ["tokio::time", "tokio::time::sleep"]);
        assert_eq!(paths("mod redis;\nfn f() { redis::open() }"), ["self::redis::open"]);
        assert_eq!(paths("fn f() { ::quinn::Endpoint::new(self.quinn.a) }"), ["quinn::Endpoint::new"]);
    }

    #[test]
    fn comments_and_texts_name_nothing() {
        let text = "//! a::b\n/* c::d */ /// e::f\nfn f() { g(\"h::i \\\" j::k\", r#\"l::m \" n::o\"#, b'\\'', '\"') }";
        assert_eq!(paths(text), Vec::<String>::new());
        assert_eq!(paths("fn f<'a>(x: &'a str) { y::z(x) }"), ["y::z"]);
    }

    #[test]
    fn lines_are_counted_and_tests_are_told_apart() {
        let source = Source::new("a/src/b.rs", "//! b\nfn f() { y::z() }\n#[cfg(test)]\nmod tests {\n}\n");
        assert_eq!(source.mentions.first().map(|mention| mention.line), Some(2));
        assert!(!source.is_test(2) && source.is_test(4));
        assert!(Source::new("a/tests/b.rs", "").is_test(1));
        let parent = Source::new("a/src/b.rs", "#[cfg(test)]\npub(crate) mod suite;\nmod real;\nfn f() {}\n");
        assert!(!parent.is_test(4), "a declaration for tests ends nothing");
        let child = |path: &str| Source::new(path, "fn f() {}").declared_by(&parent.test_modules).is_test(1);
        assert!(child("a/src/b/suite.rs") && child("a/src/b/suite/more.rs"));
        assert!(!child("a/src/b/real.rs") && !child("a/src/suite.rs"));
    }
}

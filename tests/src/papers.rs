//! What a package carries beside its program: manual pages, completions, licences, a bill of materials.
//!
//! All of it is made from what the programs themselves are made of: their command lines, the commented
//! configuration (which a test keeps true), the locked dependencies. It writes plain files into a directory;
//! what goes where in a package, and how it is compressed, is `packaging/build.sh`'s.

pub mod crates;
pub mod manual;
pub mod settings;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use clap::CommandFactory;
use clap_complete::Shell;
use rollcall_agent::cli::Cli as AgentCli;

/// What the papers of both programs need to know of the build.
#[derive(Debug, Clone)]
pub struct Edition {
    /// The version on every page.
    pub version: String,
    /// The day on every page, as 2026-11-21.
    pub date: String,
    /// The checkout.
    pub root: PathBuf,
}

/// One program and the names of its papers.
struct Program {
    name: &'static str,
    settings: &'static str,
    grammar: clap::Command,
}

fn programs() -> [Program; 2] {
    [
        Program { name: "rollcall-agent", settings: "agent.toml", grammar: <AgentCli as CommandFactory>::command() },
        Program { name: "rollcall-collector", settings: "collector.toml", grammar: rollcall_collector::cli::grammar() },
    ]
}

/// Writes the papers of both programs below a directory, one folder each.
///
/// # Errors
/// When something cannot be read or written, or cargo does not tell what the programs are built from.
pub fn write(edition: &Edition, out: &Path) -> Result<()> {
    let known = crates::Known::ask(&edition.root)?;
    for program in programs() {
        let dir = out.join(program.name);
        for folder in ["man", "completions"] {
            fs::create_dir_all(dir.join(folder)).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        let put = |name: String, bytes: &[u8]| {
            let path = dir.join(name);
            fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))
        };
        for (name, page) in manual::pages(&program.grammar, edition)? {
            put(format!("man/{name}"), &page)?;
        }
        let text = fs::read_to_string(edition.root.join("packaging/config").join(program.settings))?;
        let name = format!("{}.toml", program.name);
        put(format!("man/{name}.5"), settings::page(&name, program.name, &text, edition).as_bytes())?;
        for (shell, file) in [
            (Shell::Bash, program.name.to_owned()),
            (Shell::Zsh, format!("_{}", program.name)),
            (Shell::Fish, format!("{}.fish", program.name)),
        ] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut program.grammar.clone(), program.name, &mut script);
            put(format!("completions/{file}"), &script)?;
        }
        let used = known.used_by(&edition.root, program.name)?;
        put("licences.txt".into(), crates::licences(program.name, &used)?.as_bytes())?;
        let bill = serde_json::to_vec_pretty(&crates::bill(program.name, edition, &used))?;
        put("sbom.cdx.json".into(), &bill)?;
    }
    Ok(())
}

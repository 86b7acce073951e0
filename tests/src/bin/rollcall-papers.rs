//! Writes what packages carry beside the programs; `packaging/build.sh` calls it. See `rollcall_tests::papers`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use rollcall_tests::papers::{Edition, write};

/// Manual pages, completions, licences and a bill of materials of both programs.
#[derive(Debug, Parser)]
struct Cli {
    /// Where to write them, one folder a program.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The version on every page.
    #[arg(long)]
    edition: String,
    /// The day on every page, as 2026-11-21.
    #[arg(long)]
    date: String,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    write(&Edition { version: cli.edition, date: cli.date, root }, &cli.out)
}

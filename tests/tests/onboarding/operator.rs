//! The operator, with the collector's own program.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use rollcall_tests::{
    peer::SOON,
    until::within,
    world::{World, process::find},
};
use serde_json::Value;

/// The operator.
pub(crate) struct Operator {
    program: PathBuf,
    pub(crate) api: String,
    credential: PathBuf,
    home: PathBuf,
}

impl Operator {
    pub(crate) fn of(world: &World) -> Result<Self> {
        Ok(Self {
            program: find("rollcall-collector")?,
            api: format!("http://{}", world.api().addr()),
            credential: world.state().join("admin.credential"),
            home: world.dir().join("operator"),
        })
    }

    pub(crate) fn run(&self, line: &str) -> Result<Output> {
        let mut command = Command::new(&self.program);
        command.args(line.split_whitespace()).env_clear();
        command.env("ROLLCALL_API", &self.api).env("ROLLCALL_CREDENTIAL_FILE", &self.credential);
        Ok(command.env("HOME", &self.home).output()?)
    }

    /// What it prints; it must end well.
    pub(crate) fn says(&self, line: &str) -> Result<String> {
        let output = self.run(line)?;
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(0), "{line}: {} {complaint}", output.status);
        Ok(String::from_utf8(output.stdout)?)
    }

    pub(crate) fn document(&self, line: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.says(&format!("{line} --output json"))?)?)
    }

    /// What it complains; it must end with a code.
    pub(crate) fn fails(&self, line: &str, code: i32) -> Result<String> {
        let output = self.run(line)?;
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(code), "{line}: {} {complaint}", output.status);
        Ok(complaint)
    }

    /// Runs a line that goes on while others act, at a path of its own; how it ended and all it said.
    pub(crate) async fn follows(&self, line: &str, path: &Path) -> Result<(i32, String)> {
        let mut command = tokio::process::Command::new(&self.program);
        command.args(line.split_whitespace()).env_clear().env("PATH", path).env("HOME", &self.home);
        command.env("ROLLCALL_API", &self.api).env("ROLLCALL_CREDENTIAL_FILE", &self.credential);
        command.stdin(Stdio::null()).kill_on_drop(true);
        let output = within(SOON * 4, "the command ends", command.output()).await??;
        let said = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        Ok((output.status.code().unwrap_or(-1), said.concat()))
    }
}

pub(crate) fn text(document: &Value, name: &str) -> Result<String> {
    Ok(document.get(name).and_then(Value::as_str).with_context(|| format!("no {name} in {document}"))?.to_owned())
}

//! A real redis-server for tests: killed, restarted, paused at will, gone with its handle.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

use super::until;

/// One redis-server process on a Unix socket in a folder of the caller's.
#[derive(Debug)]
pub struct RedisServer {
    folder: PathBuf,
    options: Vec<String>,
    child: Child,
}

impl RedisServer {
    /// Starts an empty server and waits until it answers. It keeps nothing on disk unless the options say so.
    ///
    /// # Panics
    /// Where redis-server is not installed, or does not come up.
    pub async fn start(folder: &Path, options: &[&str]) -> Self {
        let options: Vec<_> = options.iter().map(|option| (*option).to_owned()).collect();
        let child = spawn(folder, &options);
        let mut server = Self { folder: folder.into(), options, child };
        server.wait().await;
        server
    }

    /// The address of the server.
    #[must_use]
    pub fn url(&self) -> String {
        format!("unix://{}", socket(&self.folder).display())
    }

    /// Kills it, as `kill -9` does.
    pub fn kill(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }

    /// Starts it again in its folder, with what it kept there.
    pub async fn restart(&mut self) {
        self.kill();
        self.child = spawn(&self.folder, &self.options);
        self.wait().await;
    }

    /// Holds the process still; its socket stays open.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Sends a command and answers with what redis-cli prints.
    ///
    /// # Panics
    /// Where redis-cli is missing or cannot connect.
    pub fn ask(&self, command: &[&str]) -> String {
        let output = self.cli(command);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    fn cli(&self, command: &[&str]) -> Output {
        let run = Command::new("redis-cli").arg("-s").arg(socket(&self.folder)).args(command).output();
        run.unwrap_or_else(|error| unreachable!("cannot run redis-cli: install the package redis-tools ({error})"))
    }

    async fn wait(&mut self) {
        until("redis-server answers", async || {
            let ended = self.child.try_wait();
            assert!(matches!(ended, Ok(None)), "redis-server ended: {ended:?}; see its log in {:?}", self.folder);
            let answer = self.cli(&["PING"]).stdout;
            // A server with a password answers as well, in its way.
            (answer == b"PONG\n" || answer.starts_with(b"NOAUTH")).then_some(())
        })
        .await;
    }

    fn signal(&self, signal: Signal) {
        let sent = Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(0)).map(|pid| kill_process(pid, signal));
        assert!(matches!(sent, Some(Ok(()))), "{sent:?}");
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("redis.sock")
}

fn spawn(folder: &Path, options: &[String]) -> Child {
    let mut command = Command::new("redis-server");
    command.args(["--port", "0", "--save", "", "--appendonly", "no", "--logfile", "redis.log", "--unixsocket"]);
    command.arg(socket(folder)).arg("--dir").arg(folder).args(options).current_dir(folder);
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
    child.unwrap_or_else(|error| unreachable!("cannot run redis-server: install the package redis-server ({error})"))
}

//! A real redis-server in a scratch directory, to be stopped, flushed and paused.

use std::{
    net::{Ipv4Addr, TcpListener},
    path::Path,
};

use anyhow::{Context as _, Result, bail};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    peer::SOON,
    until::{until, within},
    world::Process,
};

/// A server that listens on loopback alone and keeps nothing on disk.
#[derive(Debug)]
pub struct Redis {
    process: Process,
    port: u16,
}

impl Redis {
    /// Starts one on a free port; it logs to `redis.log` in `dir`.
    ///
    /// # Errors
    /// When it is not installed, or does not answer in time.
    pub async fn start(dir: &Path) -> Result<Self> {
        // Free now; should somebody take it before Redis does, the start fails and says so.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let mut process = Process::installed("redis-server", "redis", dir)
            .context("redis-server is missing: apt-get install redis-server")?;
        let args = ["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
        process.args(args.map(str::to_owned));
        process.args(["--dir".into(), dir.display().to_string()]);
        let mut redis = Self { process, port };
        redis.start_again().await?;
        Ok(redis)
    }

    /// Starts it again, empty, where it was.
    ///
    /// # Errors
    /// When it does not answer in time.
    pub async fn start_again(&mut self) -> Result<()> {
        self.process.start()?;
        until(SOON, "redis-server answers", async || match self.ask("PING").await?.as_str() {
            "+PONG\r\n" => Ok(()),
            other => bail!("it answered {other:?}"),
        })
        .await
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The raw answer to an inline command.
    ///
    /// # Errors
    /// When none comes.
    pub async fn ask(&self, command: &str) -> Result<String> {
        let talk = async {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await?;
            stream.write_all(format!("{command}\r\n").as_bytes()).await?;
            let mut buffer = vec![0; 64 * 1024];
            let length = stream.read(&mut buffer).await?;
            anyhow::Ok(String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned())
        };
        within(SOON, "redis-server answers", talk).await?
    }

    /// How many keys match a pattern.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn keys(&self, pattern: &str) -> Result<usize> {
        let answer = self.ask(&format!("KEYS {pattern}")).await?;
        let count = answer.strip_prefix('*').and_then(|rest| rest.split("\r\n").next());
        Ok(count.with_context(|| format!("no list: {answer:?}"))?.parse()?)
    }
}

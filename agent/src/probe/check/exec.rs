//! Programs that tell by their exit code, as monitoring plug-ins do: 0 is healthy, 1 degraded, all else unhealthy.
//!
//! No shell, an environment of our own, no input. A program has its own process group, and whatever is left of the
//! group goes with it: when it ends, when it takes too long, when it says too much.

use std::{io, os::unix::process::ExitStatusExt as _, process::Stdio, time::Duration};

use rollcall_common::health::{Health, Text};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::{Child, Command},
};

use super::{Host, Look};

/// What a program may say, standard error included.
const MAX_OUTPUT: usize = 64 * 1024;
/// How long the last words of an ended program may be on their way.
const LAST_WORDS: Duration = Duration::from_millis(200);
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(super) async fn look(command: &[String], host: &Host) -> Look {
    let Some((program, arguments)) = command.split_first() else { return Look::blind("there is no command") };
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("PATH", PATH).env("LC_ALL", "C").current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
    // Starting waits for the file system that the program lies on.
    let started = match host.by_hand(move || Group::start(command)).await {
        Ok(started) => started,
        Err(blind) => return blind,
    };
    let mut group = match started {
        Ok(group) => group,
        Err(error) => return Look::blind(format!("cannot run {program}: {error}")),
    };
    group.listen().await
}

/// A program and all that it starts. Dropped, it is killed as a whole.
struct Group {
    child: Child,
    pid: Option<Pid>,
}

impl Group {
    fn start(mut command: Command) -> io::Result<Self> {
        let child = command.spawn()?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        Ok(Self { child, pid })
    }

    async fn listen(&mut self) -> Look {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let (stdout, stderr) = (self.child.stdout.take(), self.child.stderr.take());
        let ended = {
            let mut hearing = std::pin::pin!(async { tokio::join!(hear(stdout, &mut out), hear(stderr, &mut err)) });
            let mut heard = false;
            loop {
                tokio::select! {
                    biased;
                    // What it started may keep its output open: its own end is what counts.
                    full = &mut hearing, if !heard => match full {
                        (true, true) => heard = true,
                        _ => return Look::blind(format!("it said more than {} KiB and was stopped", MAX_OUTPUT / 1024)),
                    },
                    ended = self.child.wait() => {
                        kill(self.pid);
                        if !heard {
                            // Whoever left the group may hold the pipe for ever.
                            let _ = tokio::time::timeout(LAST_WORDS, &mut hearing).await;
                        }
                        break ended;
                    }
                }
            }
        };
        match ended {
            Ok(status) => {
                let said = first_line(&out).or_else(|| first_line(&err));
                match (status.code(), status.signal()) {
                    (Some(code), _) => {
                        let health = match code {
                            0 => Health::Healthy,
                            1 => Health::Degraded,
                            _ => Health::Unhealthy,
                        };
                        let words = said.unwrap_or_else(|| format!("exit code {code}, without a word"));
                        Look { health, alive: (code < 2).then_some(true), ..Look::well(words) }
                    }
                    (None, Some(signal)) => Look::silent(format!("it was ended by signal {signal}")),
                    (None, None) => Look::silent(format!("it ended with {status}")),
                }
            }
            Err(error) => Look::blind(format!("cannot wait for it: {error}")),
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        kill(self.pid);
    }
}

/// Ends whoever is left of a group; mostly nobody is.
fn kill(group: Option<Pid>) {
    if let Some(pid) = group {
        let _ = kill_process_group(pid, Signal::KILL);
    }
}

/// Hears until the end; tells whether that came before the bound.
async fn hear(from: Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>) -> bool {
    let Some(from) = from else { return true };
    let bound = u64::try_from(MAX_OUTPUT).unwrap_or(u64::MAX);
    // An output that breaks off has ended.
    let _ = from.take(bound).read_to_end(into).await;
    into.len() < MAX_OUTPUT
}

/// The first line that says something, without the figures that a plug-in adds behind a bar.
fn first_line(said: &[u8]) -> Option<String> {
    let said = said.get(..said.len().min(4_096)).unwrap_or_default();
    let said = String::from_utf8_lossy(said);
    let line = said.lines().map(str::trim).find(|line| !line.is_empty())?;
    let words = line.split('|').next().map(str::trim).filter(|words| !words.is_empty())?;
    Some(Text::fit(words).as_str().to_owned())
}

//! Programs that tell by their exit code, as monitoring plug-ins do: 0 is healthy, 1 degraded, all else unhealthy.
//!
//! No shell, an environment of our own (`PATH` and `LC_ALL=C`), `/` to work in, no input, and the rights of the
//! sidecar. A program has its own process group, and whatever is left of the group goes with it: when it ends, when it
//! takes too long, when it says too much. One that cannot be killed, as the kernel holds it, is not started again
//! beside itself. Where the sidecar is the first process of a container, it buries those who lost their parents.

use std::{
    collections::BTreeSet,
    io,
    os::unix::process::ExitStatusExt as _,
    process::Stdio,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rollcall_common::health::{Health, Text};
use rustix::process::{Pid, Signal, WaitOptions, kill_process_group, waitpid};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::{Child, Command},
};

use super::{Host, Look};
use crate::leave;

/// What a program may say, standard error included.
const MAX_OUTPUT: usize = 64 * 1024;
/// How long the last words of an ended program may be on their way, and its end when it was killed.
const LAST_WORDS: Duration = Duration::from_millis(200);
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What is left of programs.
#[derive(Debug, Default)]
pub(super) struct Remains {
    /// Killed, and held by the kernel: at most one of each command.
    stuck: Mutex<Vec<(Vec<String>, Child)>>,
    /// Who was started by us and is waited for by us.
    ours: Arc<Ours>,
}

#[derive(Debug, Default)]
struct Ours(Mutex<BTreeSet<i32>>);

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Remains {
    /// The process of an earlier run of a command that has not ended.
    fn of(&self, words: &[String]) -> Option<u32> {
        let mut stuck = locked(&self.stuck);
        stuck.retain_mut(|(_, child)| matches!(child.try_wait(), Ok(None)));
        stuck.iter().find(|(command, _)| command == words).and_then(|(_, child)| child.id())
    }

    /// For a test: a run that did not end.
    #[cfg(test)]
    pub(super) fn leave(&self, words: &[String], child: Child) {
        locked(&self.stuck).push((words.to_vec(), child));
    }
}

pub(super) async fn look(words: &[String], timeout: Duration, host: &Host) -> Look {
    let Some((program, arguments)) = words.split_first() else { return Look::blind("there is no command") };
    if let Some(pid) = host.remains.of(words) {
        return Look::silent(format!("the run before was killed and does not end: the kernel holds process {pid}"));
    }
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("PATH", PATH).env("LC_ALL", "C").current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
    let mut group: Option<Group> = None;
    let ran = tokio::time::timeout(timeout, async {
        let ours = Arc::clone(&host.remains.ours);
        // Starting waits for the file system that the program lies on.
        match host.files.lend(program, move || Group::start(command, ours)).await {
            Ok(Ok(started)) => group.insert(started).listen().await,
            Ok(Err(error)) => {
                let hint = leave::hint(program.as_ref(), &error, leave::Whose::Theirs);
                Look::blind(format!("cannot run {program}: {error}{hint}"))
            }
            Err(blind) => blind,
        }
    });
    let look = match ran.await {
        Ok(look) => look,
        Err(_) if group.is_some() => Look::silent(format!("it did not end within {timeout:?}")),
        Err(_) => Look::blind(format!("it was not started within {timeout:?}: does a file system hang?")),
    };
    if let Some(group) = group {
        group.bury(words, &host.remains).await;
    }
    bury_strays(&host.remains.ours);
    look
}

/// A program and all that it starts. Dropped, it is killed as a whole.
struct Group {
    child: Option<Child>,
    pid: Option<Pid>,
    /// It was waited for and its group killed: its number may be another's from now on.
    is_over: bool,
    ours: Arc<Ours>,
}

impl Group {
    fn start(mut command: Command, ours: Arc<Ours>) -> io::Result<Self> {
        // Held meanwhile, so that nobody takes it for a stray before it is known.
        let mut known = locked(&ours.0);
        let child = command.spawn()?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        known.extend(pid.map(Pid::as_raw_pid));
        drop(known);
        Ok(Self { child: Some(child), pid, is_over: false, ours })
    }

    async fn listen(&mut self) -> Look {
        let Some(child) = &mut self.child else { return Look::blind("it was not started") };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
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
                    ended = child.wait() => {
                        kill(self.pid);
                        self.is_over = true;
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

    /// Kills whoever is left and waits for the end, a moment: where that does not come, it is remembered.
    async fn bury(mut self, words: &[String], remains: &Remains) {
        let Some(mut child) = self.child.take().filter(|_| !self.is_over) else { return };
        kill(self.pid);
        if tokio::time::timeout(LAST_WORDS, child.wait()).await.is_err() {
            locked(&remains.stuck).push((words.to_vec(), child));
        }
        self.is_over = true;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.is_over {
            kill(self.pid);
        }
        // Whoever is still to be waited for is the runtime's from here on, or remembered.
        if let Some(pid) = self.pid {
            locked(&self.ours.0).remove(&pid.as_raw_pid());
        }
    }
}

/// Ends whoever is left of a group; mostly nobody is.
fn kill(group: Option<Pid>) {
    if let Some(pid) = group {
        let _ = kill_process_group(pid, Signal::KILL);
    }
}

/// The first process of a container inherits whoever outlives its parent; nobody else collects them.
fn bury_strays(ours: &Ours) {
    if std::process::id() != 1 {
        return;
    }
    // Somebody is being started: the next look does it.
    let Ok(ours) = ours.0.try_lock() else { return };
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    for task in tasks {
        let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        let pids = children.split_ascii_whitespace().filter_map(|pid| pid.parse::<i32>().ok());
        for pid in pids.filter(|pid| !ours.contains(pid)).filter_map(Pid::from_raw) {
            let _ = waitpid(Some(pid), WaitOptions::NOHANG);
        }
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

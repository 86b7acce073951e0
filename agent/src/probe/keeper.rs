//! Owns the looks and the watches of one sidecar, and says on the board what they saw.
//!
//! At most [`LOOKS`] looks are under way at a time, a probe has at most one, and each ends within its timeout. What a
//! watch notices is looked at out of turn, within [`SUDDENLY`]; what ends again and again is so once in
//! [`LOOK_AGAIN`]. Tasks end with their keeper.

use std::{sync::Arc, time::Duration};

use rollcall_common::time::{BootTime, Clock};
use tokio::{
    sync::Semaphore,
    task::{AbortHandle, Id, JoinSet},
};

use self::follow::Rested;
use super::{
    check::{Host, Look, Prey, look},
    ledger::{At, Ledger},
    plan::{Child, Probe},
    rota::Rota,
    watch::end_of,
};
use crate::health::{HealthBoard, SharedHealth, Statement, Subject};

mod follow;

/// Looks under way at a time.
const LOOKS: usize = 8;
/// What a look may take that follows the end of what is watched: whoever waits longer for words says it without.
const SUDDENLY: Duration = Duration::from_millis(400);
/// A restarted service is looked for so soon after its end.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The tasks of all probes.
#[derive(Debug)]
pub struct Keeper {
    ledger: Ledger,
    board: SharedHealth,
    /// Who is on the board, as the ledger numbers them.
    subjects: Vec<Subject>,
    posts: Vec<Post>,
    rota: Rota,
    host: Arc<Host>,
    room: Arc<Semaphore>,
    tasks: JoinSet<Done>,
    /// The last ticket that was given out.
    tickets: u64,
    /// Who looks no more, and when it looked last: whoever comes back is no sooner for that.
    rested: Rested,
    clock: Arc<dyn Clock>,
}

/// One probe at work.
#[derive(Debug)]
struct Post {
    at: At,
    /// Its tasks name it so, wherever it stands by then.
    ticket: u64,
    probe: Arc<Probe>,
    looking: Option<AbortHandle>,
    /// The look under way, or the next one, follows the end of what was watched.
    sudden: bool,
    /// The end came while a look was under way: what it says may be of before.
    again: bool,
    watch: Option<Watch>,
    /// By what the one was found whose end was seen: what is found by the same is another one.
    spent: Option<u64>,
    /// Sudden looks rest until then.
    rests: BootTime,
}

/// Who is watched.
#[derive(Debug)]
struct Watch {
    prey: Prey,
    found_by: Option<u64>,
    task: AbortHandle,
}

#[derive(Debug)]
enum Done {
    /// By whose ticket, and what.
    Looked(u64, Look),
    /// By whose ticket.
    Ended(u64),
}

impl Keeper {
    /// Looks at everybody at once, and then in turn; what is seen is said on the board.
    #[must_use]
    pub fn new(
        own: &[Probe],
        children: &[Child],
        board: SharedHealth,
        host: Host,
        seed: u64,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let now = clock.now();
        let families = || std::iter::once(own).chain(children.iter().map(|child| child.probes.as_slice()));
        let of_children = children.iter().map(|child| Subject::Child(child.key.clone()));
        let subjects = std::iter::once(Subject::Own).chain(of_children).collect();
        let mut posts = Vec::new();
        for (subject, probes) in families().enumerate() {
            for (probe, plan) in probes.iter().enumerate() {
                posts.push(Post::new(At { subject, probe }, plan, posts.len(), now.boot));
            }
        }
        let mut keeper = Self {
            ledger: Ledger::new(families(), now.boot),
            board,
            subjects,
            rota: Rota::new(posts.iter().map(|post| post.probe.interval), seed, now.boot),
            tickets: u64::try_from(posts.len()).unwrap_or(u64::MAX),
            rested: Rested::default(),
            posts,
            host: Arc::new(host),
            room: Arc::new(Semaphore::new(LOOKS)),
            tasks: JoinSet::new(),
            clock,
        };
        let all: Vec<At> = keeper.posts.iter().map(|post| post.at).collect();
        for at in all {
            // Before the first look, nobody is well.
            let said = keeper.ledger.statement(at, now.boot);
            said.into_iter().for_each(|statement| keeper.say(at, statement, true));
        }
        keeper
    }

    /// Whether a probe saw a subject live.
    #[must_use]
    pub fn is_alive(&self, subject: usize) -> bool {
        self.ledger.is_alive(subject)
    }

    /// Works until something was seen; tells of whom, and whether that is news. Cancel-safe.
    pub async fn next(&mut self) -> (usize, bool) {
        loop {
            let now = self.clock.now().boot;
            for index in self.rota.take(now) {
                self.look(index);
            }
            let wait = self.rota.next().map(|at| at.since(now));
            tokio::select! {
                Some(done) = self.tasks.join_next_with_id() => if let Some(seen) = self.settle(done) {
                    return seen;
                },
                () = rest(wait) => {}
            }
        }
    }

    /// Where the holder of a ticket stands; one that left has none.
    fn place(&self, ticket: u64) -> Option<usize> {
        self.posts.iter().position(|post| post.ticket == ticket)
    }

    fn look(&mut self, index: usize) {
        let Some(post) = self.posts.get_mut(index).filter(|post| post.looking.is_none()) else { return };
        let (probe, host, room) = (Arc::clone(&post.probe), Arc::clone(&self.host), Arc::clone(&self.room));
        let held = post.watch.as_ref().map(|watch| watch.prey.clone());
        let (sudden, ticket) = (post.sudden, post.ticket);
        let looking = async move {
            if sudden {
                // Never behind others that hang.
                return Done::Looked(ticket, look(&probe.check, SUDDENLY.min(probe.timeout), &host, None).await);
            }
            // The semaphore is never closed.
            let _permit = room.acquire().await;
            Done::Looked(ticket, look(&probe.check, probe.timeout, &host, held.as_ref()).await)
        };
        post.looking = Some(self.tasks.spawn(looking));
    }

    fn settle(&mut self, done: Result<(Id, Done), tokio::task::JoinError>) -> Option<(usize, bool)> {
        match done {
            Ok((_, Done::Looked(ticket, look))) => self.looked(self.place(ticket)?, look),
            Ok((id, Done::Ended(ticket))) => {
                let index = self.place(ticket)?;
                let post = self.posts.get_mut(index)?;
                // One that was replaced meanwhile says nothing of its successor.
                let ended = post.watch.take_if(|watch| watch.task.id() == id)?;
                post.spent = ended.found_by;
                post.sudden = true;
                post.again = post.looking.is_some();
                let now = self.clock.now().boot;
                if now < post.rests {
                    let rested = post.rests;
                    self.rota.hurry(index, rested);
                } else {
                    post.rests = now.after(LOOK_AGAIN);
                    self.look(index);
                }
                None
            }
            Err(error) => {
                // An aborted watch, or a look that failed on our account: it has its next turn.
                let looks = |post: &&mut Post| post.looking.as_ref().is_some_and(|look| look.id() == error.id());
                let post = self.posts.iter_mut().find(looks);
                if let Some(post) = post {
                    post.looking = None;
                    tracing::error!(probe = post.probe.name.as_str(), %error, "a probe failed");
                }
                None
            }
        }
    }

    fn looked(&mut self, index: usize, mut look: Look) -> Option<(usize, bool)> {
        let now = self.clock.now();
        let post = self.posts.get_mut(index)?;
        post.looking = None;
        if std::mem::take(&mut post.again) {
            self.look(index);
            return None;
        }
        let sudden = std::mem::take(&mut post.sudden);
        if look.found_by.is_some() && look.found_by == post.spent {
            if look.alive == Some(true) {
                let found_by = look.found_by;
                look = Look::gone("it has ended; its number in the pid file is another process's by now");
                look.found_by = found_by;
            }
        } else if look.found_by.is_some() {
            post.spent = None;
        }
        let at = post.at;
        tracing::trace!(probe = post.probe.name.as_str(), health = %look.health, saw = look.words, "looked");
        let follows = self.ledger.take(at, &look, sudden, now.boot)?;
        self.say(at, follows.statement, follows.news);
        if sudden {
            // A successor is looked for, and what was found well is looked at again: it may be news to its keeper.
            self.rota.hurry(index, now.boot.after(LOOK_AGAIN));
        }
        self.watch(index, look);
        Some((at.subject, follows.news))
    }

    /// Says it on the board; what is no news wakes nobody.
    fn say(&mut self, at: At, statement: Statement, news: bool) {
        let (Some(subject), Some(source)) = (self.subjects.get(at.subject), self.ledger.source(at)) else { return };
        let say = |board: &mut HealthBoard| board.say(subject, source, statement);
        let said = if news { self.board.edit(say) } else { self.board.note(say) };
        if let Err(error) = said {
            tracing::debug!(%error, "a probe is not heard");
        }
    }

    /// Watches whom the look found. One that could not tell changes nothing.
    fn watch(&mut self, index: usize, look: Look) {
        let Some(post) = self.posts.get_mut(index) else { return };
        let found_by = look.found_by;
        match (look.prey, &mut post.watch) {
            (Some(prey), Some(watch)) if prey == watch.prey => watch.found_by = found_by,
            (Some(prey), _) => {
                if let Some(old) = post.watch.take() {
                    old.task.abort();
                }
                let (watched, ticket) = (prey.clone(), post.ticket);
                let watching = async move {
                    if let Err(error) = end_of(&watched).await {
                        tracing::debug!(%error, "what a probe watches cannot be watched: its looks must do");
                        return std::future::pending().await;
                    }
                    Done::Ended(ticket)
                };
                let task = self.tasks.spawn(watching);
                post.watch = Some(Watch { prey, found_by, task });
            }
            (None, Some(old)) if look.alive.is_some() => {
                old.task.abort();
                post.watch = None;
            }
            (None, _) => {}
        }
    }
}

async fn rest(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;

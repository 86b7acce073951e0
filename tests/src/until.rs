//! Bounded waiting: the one place where a test lets time pass.
//!
//! A test states the fact it waits for and how long that may take; when time is up it learns what was seen
//! last. What must *not* happen is watched for a stated time in the same way. Nobody else sleeps.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use tokio::time::{MissedTickBehavior, interval, timeout};

/// Time between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// Looks until a fact is there. A look answers the fact, or an error that says what was seen instead.
///
/// # Errors
/// After `within`: what was awaited, and the last sight of it.
pub async fn until<T>(within: Duration, what: &str, mut look: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let mut last = anyhow!("not one look ended in time");
    let looking = async {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            match look().await {
                Ok(fact) => return fact,
                Err(sight) => last = sight,
            }
        }
    };
    let found = timeout(within, looking).await;
    found.map_err(|_| last.context(format!("{what}: not within {within:?}")))
}

/// Looks for a stated time and wants the same each time: for what must not happen.
///
/// # Errors
/// The first look that fails.
pub async fn always(throughout: Duration, what: &str, mut look: impl AsyncFnMut() -> Result<()>) -> Result<()> {
    let looking = async {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            if let Err(sight) = look().await {
                return sight;
            }
        }
    };
    match timeout(throughout, looking).await {
        Ok(sight) => Err(sight.context(format!("{what}: not throughout {throughout:?}"))),
        Err(_) => Ok(()),
    }
}

/// Gives one act its time.
///
/// # Errors
/// When it takes longer.
pub async fn within<T>(limit: Duration, what: &str, act: impl Future<Output = T>) -> Result<T> {
    timeout(limit, act).await.with_context(|| format!("{what}: not within {limit:?}"))
}

/// Both sides and what was compared, where they differ.
///
/// # Errors
/// When they differ.
pub fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: &T, wanted: &T) -> Result<()> {
    ensure!(found == wanted, "{what} is {found:?}, not {wanted:?}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_sight_is_told() {
        let mut looks = 0;
        let found: Result<()> = until(LOOK * 4, "the answer", async || {
            looks += 1;
            Err(anyhow!("look {looks}"))
        })
        .await;
        let told = format!("{:#}", found.unwrap_err());
        assert!(told.starts_with("the answer: not within 80ms: look "), "{told}");
    }

    #[tokio::test]
    async fn what_must_not_happen_is_noticed() {
        let mut looks = 0;
        let held = always(Duration::from_secs(5), "calm", async || {
            looks += 1;
            same("looks", &(looks < 3), &true)
        })
        .await;
        assert!(held.is_err());
        always(LOOK * 3, "calm", async || Ok(())).await.unwrap();
    }
}

//! What retention takes out: a bounded slice a transaction, so that commits never wait for long.

use rollcall_common::id::ServiceKey;
use sqlx::SqliteConnection;

use super::{fault::Fault, fields::read};
use crate::store::rows::{Outlived, Prune};

/// Most rows in one slice, whatever was asked for.
const SLICE: usize = 10_000;
/// Most services in one answer.
const PAGE: usize = 1_000;

const HISTORY: &str = "DELETE FROM presence_intervals WHERE row_no IN \
     (SELECT row_no FROM presence_intervals WHERE to_at IS NOT NULL AND to_at < $1 ORDER BY to_at LIMIT $2)";
const HISTORY_OF: &str = "DELETE FROM presence_intervals WHERE row_no IN \
     (SELECT row_no FROM presence_intervals WHERE kind = $1 AND id = $2 AND to_at IS NOT NULL \
     ORDER BY from_at DESC, row_no DESC LIMIT $4 OFFSET $3)";
const BLIND: &str = "DELETE FROM blind_intervals WHERE row_no IN \
     (SELECT row_no FROM blind_intervals WHERE to_at < $1 ORDER BY to_at LIMIT $2)";
const CROWDED: &str = "SELECT kind, id FROM presence_intervals WHERE to_at IS NOT NULL AND (kind, id) > ($1, $2) \
     GROUP BY kind, id HAVING count(*) > $3 ORDER BY kind, id LIMIT $4";

const OLD_OR_MANY: &str = "SELECT count(*) FROM (SELECT to_at, row_number() OVER \
     (PARTITION BY kind, id ORDER BY from_at DESC, row_no DESC) AS place \
     FROM presence_intervals WHERE to_at IS NOT NULL) AS ended WHERE to_at < $1 OR place > $2";
const BLIND_BEFORE: &str = "SELECT count(*) FROM blind_intervals WHERE to_at < $1";
// The events of all batches before the first one that is not due.
const AUDIT_DUE: &str = "SELECT coalesce(sum(count), 0) FROM audit_seals WHERE retired_at IS NULL AND no < coalesce( \
     (SELECT min(no) FROM audit_seals WHERE retired_at IS NULL AND until_at >= $3 AND (until_at >= $1 OR last_seq > $2)), \
     9223372036854775807)";

/// Counts all that retention would take out.
pub(super) async fn outlived(conn: &mut SqliteConnection, what: &Outlived) -> Result<u64, Fault> {
    let query = match what {
        Outlived::History { before, keep } => sqlx::query_scalar(OLD_OR_MANY).bind(before.0).bind(i64::from(*keep)),
        Outlived::Blind(before) => sqlx::query_scalar(BLIND_BEFORE).bind(before.0),
        Outlived::Audit { before, sent, anyway } => {
            let sent = i64::try_from(sent.0).unwrap_or(i64::MAX);
            sqlx::query_scalar(AUDIT_DUE).bind(before.0).bind(sent).bind(anyway.0)
        }
    };
    let count: i64 = query.fetch_one(conn).await?;
    Ok(u64::try_from(count).unwrap_or(0))
}

/// Takes one slice out.
pub(super) async fn prune(conn: &mut SqliteConnection, what: &Prune, limit: usize) -> Result<u64, Fault> {
    let limit = i64::try_from(limit.min(SLICE)).unwrap_or(i64::MAX);
    let query = match what {
        Prune::HistoryBefore(moment) => sqlx::query(HISTORY).bind(moment.0).bind(limit),
        Prune::HistoryOf { service, keep } => sqlx::query(HISTORY_OF)
            .bind(service.kind.as_str())
            .bind(service.id.as_str())
            .bind(i64::from(*keep))
            .bind(limit),
        Prune::BlindBefore(moment) => sqlx::query(BLIND).bind(moment.0).bind(limit),
    };
    Ok(query.execute(conn).await?.rows_affected())
}

/// Whose history is longer than it should be.
pub(super) async fn crowded(
    conn: &mut SqliteConnection,
    keep: u32,
    after: Option<&ServiceKey>,
    limit: usize,
) -> Result<Vec<ServiceKey>, Fault> {
    let (kind, id) = after.map_or(("", ""), |key| (key.kind.as_str(), key.id.as_str()));
    let limit = i64::try_from(limit.min(PAGE)).unwrap_or(i64::MAX);
    let query = sqlx::query(CROWDED).bind(kind).bind(id).bind(i64::from(keep)).bind(limit);
    let rows = query.fetch_all(conn).await?;
    rows.iter().map(|row| read("presence_intervals", 2, row, |f| f.service())).collect()
}

-- What runs on a schedule, what holds it back, and when services are under maintenance.

-- One row a job: what an operator set, and the record of its last run (JSON).
CREATE TABLE jobs (
    name         TEXT NOT NULL PRIMARY KEY,
    schedule     TEXT NOT NULL,
    enabled      INTEGER,
    paused_until INTEGER,
    next_at      INTEGER,
    last_run     TEXT,
    last_success INTEGER,
    runs         INTEGER NOT NULL,
    failures     INTEGER NOT NULL
) STRICT;

-- What holds jobs back until somebody says otherwise.
CREATE TABLE holds (
    name   TEXT NOT NULL PRIMARY KEY,
    since  INTEGER NOT NULL,
    detail TEXT NOT NULL
) STRICT;

-- Maintenance windows. All of them end.
CREATE TABLE maintenance (
    id          TEXT NOT NULL PRIMARY KEY,
    selector    TEXT NOT NULL,
    starts_at   INTEGER NOT NULL,
    ends_at     INTEGER NOT NULL,
    recurrence  TEXT,
    reason      TEXT NOT NULL,
    author      TEXT NOT NULL,
    created_at  INTEGER NOT NULL,
    ended_early INTEGER,
    seq         INTEGER NOT NULL,
    CHECK (starts_at < ends_at)
) STRICT;

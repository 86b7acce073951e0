-- The audit trail, sealed in batches: each seal's hash covers the batch's events and the seal before it.
-- A retired batch has lost its events and keeps its seal, so that the chain holds over the gap.
CREATE TABLE audit_seals (
    no         INTEGER PRIMARY KEY,
    epoch      INTEGER NOT NULL,
    first_seq  INTEGER NOT NULL,
    last_seq   INTEGER NOT NULL,
    count      INTEGER NOT NULL,
    prev_hash  TEXT NOT NULL,
    hash       TEXT NOT NULL,
    sealed_at  INTEGER NOT NULL,
    until_at   INTEGER NOT NULL,
    retired_at INTEGER
) STRICT;
CREATE INDEX audit_seals_kept ON audit_seals (no) WHERE retired_at IS NULL;
CREATE INDEX audit_by_actor ON audit_events (actor, seq);
CREATE INDEX audit_by_request ON audit_events (request_id, seq) WHERE request_id IS NOT NULL;

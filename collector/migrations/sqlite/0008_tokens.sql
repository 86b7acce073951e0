-- What a token allows beyond a kind, a parent and an id.
ALTER TABLE tokens ADD COLUMN approval TEXT NOT NULL DEFAULT 'auto';
-- Seconds of absence after which a service that it registered is removed.
ALTER TABLE tokens ADD COLUMN ephemeral_after INTEGER;
-- How a label finds the parent, as JSON.
ALTER TABLE tokens ADD COLUMN parent_rule TEXT;
-- Whether the sidecars that it enrolls may register unknown children by reporting them.
ALTER TABLE tokens ADD COLUMN implicit_children INTEGER NOT NULL DEFAULT 0;

-- Enrollments that an operator has to decide on. One for each key that asked with a token.
CREATE TABLE approvals (
    id           TEXT NOT NULL PRIMARY KEY,
    token        TEXT NOT NULL REFERENCES tokens (id) ON DELETE CASCADE,
    key_hash     TEXT NOT NULL,
    kind         TEXT NOT NULL,
    service      TEXT NOT NULL,
    parent       TEXT,
    checker_kind TEXT,
    labels       TEXT NOT NULL,
    metadata     TEXT NOT NULL,
    from_address TEXT NOT NULL,
    first_asked  INTEGER NOT NULL,
    last_asked   INTEGER NOT NULL,
    state        TEXT NOT NULL,
    decided_at   INTEGER,
    decided_by   TEXT,
    reason       TEXT NOT NULL,
    seq          INTEGER NOT NULL,
    UNIQUE (token, key_hash)
) STRICT;

-- Refusals that an operator can do something about, aggregated. No reference to tokens: who knocks may have invented one.
CREATE TABLE knocks (
    id           TEXT NOT NULL PRIMARY KEY,
    proven       INTEGER NOT NULL,
    door         TEXT NOT NULL,
    why          TEXT NOT NULL,
    token        TEXT,
    kind         TEXT,
    service      TEXT,
    parent       TEXT,
    network      TEXT NOT NULL,
    from_address TEXT NOT NULL,
    first_at     INTEGER NOT NULL,
    last_at      INTEGER NOT NULL,
    times        INTEGER NOT NULL
) STRICT;

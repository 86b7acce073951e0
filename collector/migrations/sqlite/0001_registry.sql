-- The registry. Natural keys; times are milliseconds since the Unix epoch; JSON is TEXT.
-- Each changed row that clients compare carries the seq of its last change.

-- Where the store stands: one row, which every commit locks.
CREATE TABLE meta (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    epoch    INTEGER NOT NULL CHECK (epoch > 0),
    seq      INTEGER NOT NULL CHECK (seq >= 0)
) STRICT;
INSERT INTO meta (only_row, epoch, seq) VALUES (1, (random() & 0x7fffffffffffffff) | 1, 0);

CREATE TABLE services (
    kind             TEXT NOT NULL,
    id               TEXT NOT NULL,
    parent           TEXT,
    poller           TEXT,
    checker_kind     TEXT,
    component_id     TEXT,
    source           TEXT NOT NULL,
    labels           TEXT NOT NULL,
    metadata         TEXT NOT NULL,
    created_by       TEXT NOT NULL,
    first_registered INTEGER NOT NULL,
    first_seen       INTEGER,
    last_seen        INTEGER,
    status           TEXT NOT NULL,
    status_since     INTEGER NOT NULL,
    health           TEXT,
    health_reason    TEXT,
    health_at        INTEGER,
    facts            TEXT,
    seq              INTEGER NOT NULL,
    PRIMARY KEY (kind, id),
    CHECK ((health IS NULL) = (health_reason IS NULL) AND (health IS NULL) = (health_at IS NULL))
) STRICT;

CREATE TABLE identities (
    kind              TEXT NOT NULL,
    id                TEXT NOT NULL,
    serial            TEXT NOT NULL,
    key_hash          TEXT NOT NULL,
    spki              BLOB NOT NULL,
    not_after         INTEGER NOT NULL,
    pending_serial    TEXT,
    pending_key_hash  TEXT,
    pending_spki      BLOB,
    pending_not_after INTEGER,
    enrolled_via      TEXT NOT NULL,
    enrolled_at       INTEGER NOT NULL,
    rejoins           INTEGER NOT NULL,
    rejoins_since     INTEGER NOT NULL,
    rejoin_limit      INTEGER,
    PRIMARY KEY (kind, id),
    FOREIGN KEY (kind, id) REFERENCES services (kind, id) ON DELETE CASCADE,
    CHECK ((pending_serial IS NULL) = (pending_key_hash IS NULL)
       AND (pending_serial IS NULL) = (pending_spki IS NULL)
       AND (pending_serial IS NULL) = (pending_not_after IS NULL))
) STRICT;

-- Current and pending keys in one place: a key belongs to one identity.
CREATE TABLE identity_keys (
    key_hash TEXT NOT NULL PRIMARY KEY,
    kind     TEXT NOT NULL,
    id       TEXT NOT NULL,
    FOREIGN KEY (kind, id) REFERENCES identities (kind, id) ON DELETE CASCADE
) STRICT;
CREATE INDEX identity_keys_by_identity ON identity_keys (kind, id);

-- Serials that are refused although they verify.
CREATE TABLE denied (
    serial   TEXT NOT NULL PRIMARY KEY,
    until_at INTEGER NOT NULL
) STRICT;

CREATE TABLE tokens (
    id             TEXT NOT NULL PRIMARY KEY,
    secret_hash    BLOB NOT NULL,
    kind           TEXT NOT NULL,
    parent         TEXT,
    id_rule        TEXT NOT NULL,
    checker_kind   TEXT,
    max_uses       INTEGER NOT NULL,
    not_before     INTEGER NOT NULL,
    expires_at     INTEGER NOT NULL,
    cidr_allow     TEXT NOT NULL,
    labels         TEXT NOT NULL,
    rejoin_limit   INTEGER,
    uses           INTEGER NOT NULL,
    created_by     TEXT NOT NULL,
    created_at     INTEGER NOT NULL,
    note           TEXT NOT NULL,
    revoked_at     INTEGER,
    last_used_at   INTEGER,
    last_used_from TEXT,
    seq            INTEGER NOT NULL
) STRICT;

-- Which keys used a token. No reference to services: the use outlives the service.
CREATE TABLE token_uses (
    token    TEXT NOT NULL REFERENCES tokens (id) ON DELETE CASCADE,
    key_hash TEXT NOT NULL,
    kind     TEXT NOT NULL,
    id       TEXT NOT NULL,
    PRIMARY KEY (token, key_hash)
) STRICT;

CREATE TABLE credentials (
    id          TEXT NOT NULL PRIMARY KEY,
    secret_hash BLOB NOT NULL,
    role        TEXT NOT NULL,
    created_at  INTEGER NOT NULL,
    expires_at  INTEGER,
    revoked_at  INTEGER
) STRICT;

-- Presence history. Rows are added; the last one of a service is open until the next begins.
CREATE TABLE presence_intervals (
    row_no        INTEGER PRIMARY KEY,
    kind          TEXT NOT NULL,
    id            TEXT NOT NULL,
    from_at       INTEGER NOT NULL,
    to_at         INTEGER,
    presence      TEXT NOT NULL,
    cause         TEXT NOT NULL,
    evidence      TEXT NOT NULL,
    decided_at    INTEGER NOT NULL,
    recorded_at   INTEGER NOT NULL,
    superseded_at INTEGER,
    boot_id       TEXT NOT NULL,
    from_boot     INTEGER NOT NULL,
    FOREIGN KEY (kind, id) REFERENCES services (kind, id) ON DELETE CASCADE
) STRICT;
CREATE INDEX presence_by_service ON presence_intervals (kind, id, from_at);
CREATE UNIQUE INDEX presence_open ON presence_intervals (kind, id) WHERE to_at IS NULL AND superseded_at IS NULL;
-- For retention: what ended long ago.
CREATE INDEX presence_by_end ON presence_intervals (to_at) WHERE to_at IS NOT NULL;

-- The last moment at which each collector was observing.
CREATE TABLE observer_marks (
    collector TEXT NOT NULL PRIMARY KEY,
    boot_id   TEXT NOT NULL,
    boot_at   INTEGER NOT NULL,
    wall_at   INTEGER NOT NULL
) STRICT;

CREATE TABLE blind_intervals (
    row_no  INTEGER PRIMARY KEY,
    scope   TEXT NOT NULL,
    from_at INTEGER NOT NULL,
    to_at   INTEGER NOT NULL,
    cause   TEXT NOT NULL
) STRICT;
CREATE INDEX blind_by_end ON blind_intervals (to_at);

-- Rows are added and, after their retention, removed; never changed.
CREATE TABLE audit_events (
    seq        INTEGER PRIMARY KEY,
    at         INTEGER NOT NULL,
    action     TEXT NOT NULL,
    actor      TEXT NOT NULL,
    object     TEXT NOT NULL,
    request_id TEXT,
    details    TEXT NOT NULL
) STRICT;
CREATE INDEX audit_by_object ON audit_events (object, seq);
CREATE INDEX audit_by_action ON audit_events (action, seq);
-- For retention.
CREATE INDEX audit_by_time ON audit_events (at);

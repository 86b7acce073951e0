-- Onboarding packages: a pre-registration, its token and its configuration, handed out once.
-- `sealed` is the token, encrypted under a secret that is kept nowhere; it goes when it was delivered.
CREATE TABLE packages (
    id           TEXT NOT NULL PRIMARY KEY,
    kind         TEXT NOT NULL,
    service      TEXT NOT NULL,
    parent       TEXT,
    component_id TEXT NOT NULL,
    token        TEXT NOT NULL,
    secret_hash  BLOB NOT NULL,
    sealed       BLOB,
    settings     TEXT NOT NULL,
    status       TEXT NOT NULL,
    status_since INTEGER NOT NULL,
    issues       INTEGER NOT NULL,
    note         TEXT NOT NULL,
    created_by   TEXT NOT NULL,
    created_at   INTEGER NOT NULL,
    expires_at   INTEGER NOT NULL,
    delivered_at INTEGER,
    delivered_to TEXT,
    activated_at INTEGER,
    seq          INTEGER NOT NULL
) STRICT;
CREATE INDEX packages_by_service ON packages (kind, service);

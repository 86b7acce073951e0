-- Answers to requests that named themselves, so that a repetition is answered and not done again.
-- What is told once only is not among them.
CREATE TABLE answers (
    caller      TEXT NOT NULL,
    request_key TEXT NOT NULL,
    fingerprint BLOB NOT NULL,
    status      INTEGER NOT NULL,
    location    TEXT,
    body        TEXT NOT NULL,
    secret      INTEGER NOT NULL,
    at          INTEGER NOT NULL,
    seq         INTEGER NOT NULL,
    PRIMARY KEY (caller, request_key)
) STRICT;

-- A registry as the first schema left it: every table of that time with rows in it. Played into an empty file by tests;
-- it never changes, as no released migration does.
PRAGMA foreign_keys = OFF;
PRAGMA application_id = 1383033964;
CREATE TABLE meta (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    epoch    INTEGER NOT NULL CHECK (epoch > 0),
    seq      INTEGER NOT NULL CHECK (seq >= 0)
) STRICT;
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
CREATE TABLE sightings (
    kind    TEXT NOT NULL,
    id      TEXT NOT NULL,
    seen_at INTEGER NOT NULL,
    PRIMARY KEY (kind, id),
    FOREIGN KEY (kind, id) REFERENCES services (kind, id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
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
CREATE TABLE identity_keys (
    key_hash TEXT NOT NULL PRIMARY KEY,
    kind     TEXT NOT NULL,
    id       TEXT NOT NULL,
    FOREIGN KEY (kind, id) REFERENCES identities (kind, id) ON DELETE CASCADE
) STRICT;
CREATE INDEX identity_keys_by_identity ON identity_keys (kind, id);
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
CREATE INDEX presence_by_end ON presence_intervals (to_at) WHERE to_at IS NOT NULL;
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
CREATE INDEX audit_by_time ON audit_events (at);
CREATE TABLE _sqlx_migrations (
    version BIGINT PRIMARY KEY,
    description TEXT NOT NULL,
    installed_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    success BOOLEAN NOT NULL,
    checksum BLOB NOT NULL,
    execution_time BIGINT NOT NULL
);
INSERT INTO _sqlx_migrations VALUES (1, 'registry', '2026-11-03 08:00:00', 1, x'af6d773d5de4331cffc546c1e1aff296446da137e67e435d071efa67107a9f89220e95c1acffad4a87281de614dda226', 1000000);
INSERT INTO meta VALUES (1, 9117702823170066151, 27);
INSERT INTO services VALUES ('poller', 'site-3', NULL, NULL, NULL, NULL, 'http', '{"site":"3"}', '{}', 'credential:ewl6uwmkjycnz3lv', 1795282895889, 1795282896639, 1795282896639, 'active', 1795282896639, NULL, NULL, NULL, '{"hostname":"edge-host","os":"Debian GNU/Linux 12","kernel":"6.1.0-30-amd64","arch":"x86_64","cpus":2,"memory_mib":2048,"uptime_secs":14387,"agent_version":"0.1.0"}', 9);
INSERT INTO services VALUES ('agent', 'edge-17', 'site-3', 'site-3', NULL, 'c-17', 'edge_onboarding', '{"site":"3","town":"Zürich"}', '{"rack":"B 4"}', 'token:wcexwi4xfz5eahve', 1795282902700, 1795282902814, 1795282902814, 'active', 1795282902814, 'degraded', 'disk 91 %', 1795282905000, '{"hostname":"edge-host","os":"Debian GNU/Linux 12","kernel":"6.1.0-30-amd64","arch":"x86_64","cpus":2,"memory_mib":2048,"uptime_secs":14387,"agent_version":"0.1.0"}', 19);
INSERT INTO services VALUES ('instance', 'db-1', NULL, NULL, NULL, NULL, 'http', '{}', '{}', 'credential:ewl6uwmkjycnz3lv', 1795282909348, NULL, NULL, 'revoked', 1795282909597, NULL, NULL, NULL, NULL, 26);
INSERT INTO sightings VALUES ('agent', 'edge-17', 1795282941273);
INSERT INTO sightings VALUES ('poller', 'site-3', 1795282940997);
INSERT INTO identities VALUES ('poller', 'site-3', '0100000000000001875632257188f461', '7d70a811332b2e7a14d5199ad9e68821b2f101263d67ba514c00feab12b39e1d', x'3059301306072a8648ce3d020106082a8648ce3d030107034200042b48ca53e1b10abb1d118df88c143c9ddfaeb289acfff568a6d79e80b9ca7e64736d8d0bcb35408383d4cdc55fdd1b8df4628c81598a0c9f9d1e20aea7b11219', 1795887696000, NULL, NULL, NULL, NULL, 'x52woe26n2bmsfsh', 1795282896501, 0, 1795282896501, 5);
INSERT INTO identities VALUES ('agent', 'edge-17', '0100000000000001beb6ad3f12c4aa88', '5f807ed026ca762f95c40d1721f65d0743d99688848cb2b839385e2d97306d94', x'3059301306072a8648ce3d020106082a8648ce3d03010703420004fd4ec6cbc5ebe55e88982525dd787f6ca7c3ab47a026068fd100ed756b3116b11c6cb6d6a4872913ec6bf00867605faadf066c905f30769148c7e65d06d435f4', 1795887702000, NULL, NULL, NULL, NULL, 'wcexwi4xfz5eahve', 1795282902700, 0, 1795282902700, 5);
INSERT INTO identity_keys VALUES ('7d70a811332b2e7a14d5199ad9e68821b2f101263d67ba514c00feab12b39e1d', 'poller', 'site-3');
INSERT INTO identity_keys VALUES ('5f807ed026ca762f95c40d1721f65d0743d99688848cb2b839385e2d97306d94', 'agent', 'edge-17');
INSERT INTO denied VALUES ('0100000000000001beb6ad3f12c4aa77', 1795887702000);
INSERT INTO tokens VALUES ('x52woe26n2bmsfsh', x'762ff998ad17e0a008bff54205176638a75aa05d1f572e43e49b8210a4f11d46', 'poller', NULL, '{"fixed":"site-3"}', NULL, 1, 1795282896073, 1795286496073, '[]', '{}', 5, 1, 'credential:ewl6uwmkjycnz3lv', 1795282896074, '', NULL, 1795282896501, '127.0.0.1', 6);
INSERT INTO tokens VALUES ('wcexwi4xfz5eahve', x'e61622e155db11392b6e7e0be3c06db59fd670d3d10ea2a63c13f85179aeae3d', 'agent', 'site-3', '{"fixed":"edge-17"}', NULL, 1, 1795282902189, 1795286502189, '[]', '{}', 5, 1, 'credential:ewl6uwmkjycnz3lv', 1795282902190, '', NULL, 1795282902700, '127.0.0.1', 14);
INSERT INTO tokens VALUES ('xm3aqryelcnkuee7', x'955196c8f077138c5b3763a8a710351d86f8844a480df7ecd828753fb18b4568', 'checker', 'edge-17', '{"prefix":"snmp-"}', NULL, 3, 1795282908610, 1795286508610, '[]', '{"site":"3"}', 5, 0, 'credential:ewl6uwmkjycnz3lv', 1795282908610, 'for the north', NULL, NULL, NULL, 22);
INSERT INTO token_uses VALUES ('x52woe26n2bmsfsh', '7d70a811332b2e7a14d5199ad9e68821b2f101263d67ba514c00feab12b39e1d', 'poller', 'site-3');
INSERT INTO token_uses VALUES ('wcexwi4xfz5eahve', '5f807ed026ca762f95c40d1721f65d0743d99688848cb2b839385e2d97306d94', 'agent', 'edge-17');
INSERT INTO credentials VALUES ('ewl6uwmkjycnz3lv', x'3bbf8ac1176bd70a59fe8609a0e6f07e073bf5e4a78241cbf28af29e15509ee5', 'bootstrap', 1795282894529, NULL, NULL);
INSERT INTO presence_intervals VALUES (1, 'poller', 'site-3', 1795282896639, NULL, 'alive', 'first_beat', '{"beat_no":1,"session":1}', 1795282896639, 1795282896639, NULL, '00112233445566778899aabbccddeeff', 14387910);
INSERT INTO presence_intervals VALUES (2, 'agent', 'edge-17', 1795282902814, NULL, 'alive', 'first_beat', '{"beat_no":1,"session":1}', 1795282902814, 1795282902814, NULL, '00112233445566778899aabbccddeeff', 14394085);
INSERT INTO observer_marks VALUES ('main', '00112233445566778899aabbccddeeff', 14433120, 1795282941849);
INSERT INTO blind_intervals VALUES (1, '{"collector": "main"}', 1795282880000, 1795282894000, 'restart');
INSERT INTO audit_events VALUES (1, 1795282894529, 'credential.created', 'system', 'credential:ewl6uwmkjycnz3lv', NULL, '{"role":"bootstrap"}');
INSERT INTO audit_events VALUES (3, 1795282895889, 'service.registered', 'credential:ewl6uwmkjycnz3lv', 'poller/site-3', 'ee5b2e4b-1', '{"after":{"labels.site":"3"},"parent":null,"source":"http"}');
INSERT INTO audit_events VALUES (5, 1795282896074, 'token.created', 'credential:ewl6uwmkjycnz3lv', 'token:x52woe26n2bmsfsh', 'ee5b2e4b-2', '{"note":"","policy":{"approval":"auto","checker_kind":null,"cidr_allow":[],"ephemeral_after":null,"expires_at":1795286496073,"id_rule":{"fixed":"site-3"},"implicit_children":false,"kind":"poller","labels":{},"max_uses":1,"not_before":1795282896073,"parent":null,"parent_rule":null,"rejoin_limit":5}}');
INSERT INTO audit_events VALUES (8, 1795282896501, 'identity.enrolled', 'token:x52woe26n2bmsfsh', 'poller/site-3', NULL, '{"from":"127.0.0.1","serial":"0100000000000001875632257188f461"}');
INSERT INTO audit_events VALUES (10, 1795282896639, 'service.activated', 'sidecar:poller/site-3', 'poller/site-3', NULL, '{"after":"active","before":"pending"}');
INSERT INTO audit_events VALUES (13, 1795282902190, 'token.created', 'credential:ewl6uwmkjycnz3lv', 'token:wcexwi4xfz5eahve', 'ee5b2e4b-3', '{"note":"","policy":{"approval":"auto","checker_kind":null,"cidr_allow":[],"ephemeral_after":null,"expires_at":1795286502189,"id_rule":{"fixed":"edge-17"},"implicit_children":false,"kind":"agent","labels":{},"max_uses":1,"not_before":1795282902189,"parent":"site-3","parent_rule":null,"rejoin_limit":5}}');
INSERT INTO audit_events VALUES (17, 1795282902700, 'service.registered', 'token:wcexwi4xfz5eahve', 'agent/edge-17', NULL, '{"source":"edge_onboarding","token":"wcexwi4xfz5eahve"}');
INSERT INTO audit_events VALUES (18, 1795282902700, 'identity.enrolled', 'token:wcexwi4xfz5eahve', 'agent/edge-17', NULL, '{"from":"127.0.0.1","serial":"0100000000000001beb6ad3f12c4aa88"}');
INSERT INTO audit_events VALUES (20, 1795282902814, 'service.activated', 'sidecar:agent/edge-17', 'agent/edge-17', NULL, '{"after":"active","before":"pending"}');
INSERT INTO audit_events VALUES (23, 1795282908610, 'token.created', 'credential:ewl6uwmkjycnz3lv', 'token:xm3aqryelcnkuee7', 'ee5b2e4b-4', '{"note":"for the north","policy":{"approval":"auto","checker_kind":null,"cidr_allow":[],"ephemeral_after":null,"expires_at":1795286508610,"id_rule":{"prefix":"snmp-"},"implicit_children":false,"kind":"checker","labels":{"site":"3"},"max_uses":3,"not_before":1795282908610,"parent":"edge-17","parent_rule":null,"rejoin_limit":5}}');
INSERT INTO audit_events VALUES (25, 1795282909348, 'service.registered', 'credential:ewl6uwmkjycnz3lv', 'instance/db-1', 'ee5b2e4b-5', '{"parent":null,"source":"http"}');
INSERT INTO audit_events VALUES (27, 1795282909597, 'service.revoked', 'credential:ewl6uwmkjycnz3lv', 'instance/db-1', 'ee5b2e4b-6', '{"after":"revoked","before":"pending","reason":"stolen"}');

-- Keys for automation: how far they reach, what an enroller may mint, who made them and when they were used.
ALTER TABLE credentials ADD COLUMN scope        TEXT NOT NULL DEFAULT '';
ALTER TABLE credentials ADD COLUMN policy       TEXT;
ALTER TABLE credentials ADD COLUMN note         TEXT NOT NULL DEFAULT '';
ALTER TABLE credentials ADD COLUMN created_by   TEXT NOT NULL DEFAULT 'system';
ALTER TABLE credentials ADD COLUMN last_used_at INTEGER;

-- What operators want of a sidecar, and what became of it there; both as JSON. Nothing was wanted so far.
ALTER TABLE services ADD COLUMN settings TEXT;
ALTER TABLE services ADD COLUMN settings_state TEXT;
-- Whether the service gets on with its work: all three or none.
ALTER TABLE services ADD COLUMN progress TEXT;
ALTER TABLE services ADD COLUMN progress_reason TEXT;
ALTER TABLE services ADD COLUMN progress_at INTEGER;
-- What its host proposed last, as JSON: the labels, and the metadata that operators' changes are told from.
ALTER TABLE services ADD COLUMN announced TEXT;
-- The machine that an identity is used on, as JSON.
ALTER TABLE identities ADD COLUMN machine TEXT;

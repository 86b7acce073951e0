-- What an operator says of a service beyond who it is, and why it was revoked.
ALTER TABLE services ADD COLUMN placeholder INTEGER NOT NULL DEFAULT 0 CHECK (placeholder IN (0, 1));
ALTER TABLE services ADD COLUMN declared_spiffe TEXT;
ALTER TABLE services ADD COLUMN ephemeral_after INTEGER CHECK (ephemeral_after > 0);
ALTER TABLE services ADD COLUMN implicit_children INTEGER NOT NULL DEFAULT 0 CHECK (implicit_children IN (0, 1));
ALTER TABLE services ADD COLUMN archived INTEGER NOT NULL DEFAULT 0 CHECK (archived IN (0, 1));

-- Numbers that the calls before a replay may have had. The calls of this life are numbered from there on, so that no two
-- lives of a delivery have one number in common: by it a platform, and a report, tell the calls apart.
ALTER TABLE delivery ADD COLUMN earlier INTEGER NOT NULL DEFAULT 0;
ALTER TABLE dead_letter ADD COLUMN earlier INTEGER NOT NULL DEFAULT 0;

CREATE TABLE node (
    name      TEXT    NOT NULL PRIMARY KEY,
    revision  INTEGER NOT NULL,
    admin_url TEXT,
    -- Microseconds by this database's clock.
    seen_at   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE audit (
    id       INTEGER NOT NULL PRIMARY KEY,
    noted_at INTEGER NOT NULL,
    actor    TEXT    NOT NULL,
    action   TEXT    NOT NULL,
    binding  BLOB    NOT NULL,
    detail   TEXT    NOT NULL
) STRICT;

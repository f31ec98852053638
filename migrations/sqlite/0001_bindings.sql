-- One row: which database this is, and how far it has come. In a mirror: which database it copies, and how far.
CREATE TABLE revision (
    id          INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    database_id BLOB    NOT NULL CHECK (length(database_id) = 16),
    revision    INTEGER NOT NULL,
    -- Changes up to this one are no longer in binding_change.
    pruned      INTEGER NOT NULL,
    -- 'authority' or 'mirror'; NULL until the file is first used. Only here, not in MySQL, which is never a mirror.
    role        TEXT CHECK (role IN ('authority', 'mirror')),
    -- Whether a mirror has ever been brought up to date.
    filled      INTEGER NOT NULL DEFAULT 0
) STRICT;

INSERT INTO revision (id, database_id, revision, pruned) VALUES (1, randomblob(16), 0, 0);

CREATE TABLE binding (
    id            BLOB    NOT NULL PRIMARY KEY,
    -- SHA-256 of storage, bucket, filter and function: the same binding is not made twice.
    identity      BLOB    NOT NULL UNIQUE,
    storage       TEXT    NOT NULL,
    bucket        TEXT    NOT NULL,
    platform      TEXT    NOT NULL,
    function_name TEXT    NOT NULL,
    concurrency   INTEGER NOT NULL,
    spec          TEXT    NOT NULL,
    wanted        TEXT    NOT NULL,
    state         TEXT    NOT NULL,
    reason        TEXT,
    steps         TEXT    NOT NULL,
    secret        TEXT    NOT NULL,
    revision      INTEGER NOT NULL,
    created_at    INTEGER NOT NULL,
    updated_at    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX binding_bucket ON binding (storage, bucket);
CREATE INDEX binding_function ON binding (platform, function_name);

CREATE TABLE binding_change (
    revision INTEGER NOT NULL,
    binding  BLOB    NOT NULL,
    -- Kept here too: of a binding that is gone, this is all there is to say which bucket's index is stale.
    storage  TEXT    NOT NULL,
    bucket   TEXT    NOT NULL,
    PRIMARY KEY (revision, binding)
) STRICT, WITHOUT ROWID;

CREATE TABLE binding_history (
    binding  BLOB    NOT NULL,
    revision INTEGER NOT NULL,
    noted_at INTEGER NOT NULL,
    state    TEXT    NOT NULL,
    reason   TEXT,
    PRIMARY KEY (binding, revision)
) STRICT, WITHOUT ROWID;

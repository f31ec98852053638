-- Ids are 16-byte blobs, times are microseconds since the Unix epoch.

-- Functions by number, so that rows and indexes stay small.
CREATE TABLE function (
    id       INTEGER PRIMARY KEY,
    platform TEXT NOT NULL,
    name     TEXT NOT NULL,
    UNIQUE (platform, name)
) STRICT;

-- What happened, as JSON. Immutable; one row for all its deliveries and dead letters, removed with the last of them.
CREATE TABLE event (
    seq     INTEGER PRIMARY KEY,
    id      BLOB NOT NULL UNIQUE CHECK (length(id) = 16),
    payload TEXT NOT NULL
) STRICT;

-- Parked deliveries.
CREATE TABLE delivery (
    seq         INTEGER PRIMARY KEY,
    id          BLOB NOT NULL UNIQUE CHECK (length(id) = 16),
    event       INTEGER NOT NULL,
    binding     BLOB NOT NULL CHECK (length(binding) = 16),
    function    INTEGER NOT NULL,
    accepted_at INTEGER NOT NULL,
    due         INTEGER NOT NULL,
    held        INTEGER NOT NULL CHECK (held IN (0, 1)),
    held_since  INTEGER CHECK ((held_since IS NOT NULL) = held),
    attempts    INTEGER NOT NULL,
    tries       INTEGER NOT NULL,
    replays     INTEGER NOT NULL,
    -- Bytes that count against the function's share.
    weight      INTEGER NOT NULL
) STRICT;

-- Covers the search for what is due: the rows themselves are read only for what is taken.
CREATE INDEX delivery_due ON delivery (function, held, due, seq, id);
CREATE INDEX delivery_event ON delivery (event);
CREATE INDEX delivery_binding ON delivery (binding, held);

-- The last attempts of a delivery, parked or dead.
CREATE TABLE attempt (
    delivery BLOB NOT NULL,
    n        INTEGER NOT NULL,
    at       INTEGER NOT NULL,
    took_us  INTEGER NOT NULL,
    class    TEXT NOT NULL,
    status   INTEGER,
    detail   TEXT NOT NULL,
    PRIMARY KEY (delivery, n)
) STRICT, WITHOUT ROWID;

CREATE TABLE dead_letter (
    -- Grows in the order in which deliveries died.
    seq         INTEGER PRIMARY KEY,
    id          BLOB NOT NULL UNIQUE CHECK (length(id) = 16),
    event       INTEGER NOT NULL,
    binding     BLOB NOT NULL CHECK (length(binding) = 16),
    function    INTEGER NOT NULL,
    accepted_at INTEGER NOT NULL,
    attempts    INTEGER NOT NULL,
    tries       INTEGER NOT NULL,
    replays     INTEGER NOT NULL,
    weight      INTEGER NOT NULL,
    reason      TEXT NOT NULL,
    detail      TEXT NOT NULL,
    died_at     INTEGER NOT NULL
) STRICT;

CREATE INDEX dead_letter_event ON dead_letter (event);
CREATE INDEX dead_letter_binding ON dead_letter (binding, seq);

-- What could never be processed: bounded, the oldest go.
CREATE TABLE quarantine (
    seq         INTEGER PRIMARY KEY,
    source      TEXT NOT NULL,
    received_at INTEGER NOT NULL,
    reason      TEXT NOT NULL,
    bytes       BLOB NOT NULL,
    length      INTEGER NOT NULL
) STRICT;

-- Dead letters and quarantined items are walked and named by `seq`, so it is never given twice: a letter that is replayed
-- and dies again comes after every walk that has begun, and no item takes over the number of one that is gone.
CREATE TABLE dead_letter_new (
    -- Grows in the order in which deliveries died.
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
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

INSERT INTO dead_letter_new (seq, id, event, binding, function, accepted_at, attempts, tries, replays, weight, reason,
                             detail, died_at)
SELECT seq, id, event, binding, function, accepted_at, attempts, tries, replays, weight, reason, detail, died_at
FROM dead_letter ORDER BY seq;

DROP TABLE dead_letter;
ALTER TABLE dead_letter_new RENAME TO dead_letter;

CREATE INDEX dead_letter_event ON dead_letter (event);
CREATE INDEX dead_letter_binding ON dead_letter (binding, seq);
CREATE INDEX dead_letter_function ON dead_letter (function, seq);
CREATE INDEX dead_letter_died ON dead_letter (died_at);

CREATE TABLE quarantine_new (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
    source      TEXT NOT NULL,
    received_at INTEGER NOT NULL,
    reason      TEXT NOT NULL,
    bytes       BLOB NOT NULL,
    length      INTEGER NOT NULL,
    -- How often it was tried again in vain, and when last.
    tries       INTEGER NOT NULL DEFAULT 0,
    tried_at    INTEGER
) STRICT;

INSERT INTO quarantine_new (seq, source, received_at, reason, bytes, length)
SELECT seq, source, received_at, reason, bytes, length FROM quarantine ORDER BY seq;

DROP TABLE quarantine;
ALTER TABLE quarantine_new RENAME TO quarantine;

-- The dead letter that a handler function is to be given by this delivery; NULL for every ordinary one.
ALTER TABLE delivery ADD COLUMN letter BLOB CHECK (letter IS NULL OR length(letter) = 16);

-- Up to which dead letter it was seen to that a handler function is called where there is one. What lay here before is
-- not new.
CREATE TABLE handed_over (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    seq INTEGER NOT NULL
) STRICT;

INSERT INTO handed_over (one, seq) SELECT 1, coalesce(max(seq), 0) FROM dead_letter;

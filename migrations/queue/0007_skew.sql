-- By how many microseconds the wall clock is ahead of the time by which everything here is stamped (`domain::steady`): what
-- is due goes on waiting as long as it should when the clock is set and triggerd started anew.
CREATE TABLE skew (
    one    INTEGER PRIMARY KEY CHECK (one = 1),
    micros INTEGER NOT NULL
) STRICT;

INSERT INTO skew (one, micros) VALUES (1, 0);

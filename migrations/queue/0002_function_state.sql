-- What is known of a function over a restart: until when its circuit breaker is open, and why. No row: it is closed.
-- By name and not by number: it does not keep a number alive, and outlives the function's deliveries.
CREATE TABLE function_state (
    platform   TEXT NOT NULL,
    name       TEXT NOT NULL,
    open_until INTEGER NOT NULL,
    -- How often it opened since it was closed.
    opened     INTEGER NOT NULL,
    reason     TEXT NOT NULL,
    PRIMARY KEY (platform, name)
) STRICT, WITHOUT ROWID;

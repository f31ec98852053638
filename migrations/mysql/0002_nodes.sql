CREATE TABLE node (
    name      VARCHAR(255) NOT NULL PRIMARY KEY,
    revision  BIGINT       NOT NULL,
    admin_url TEXT,
    -- Microseconds by this database's clock, the only one that all daemons share.
    seen_at   BIGINT       NOT NULL
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

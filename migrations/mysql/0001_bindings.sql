-- One row: which database this is, and how far it has come. Every change locks it first, so commit order is revision
-- order.
CREATE TABLE revision (
    id          TINYINT    NOT NULL PRIMARY KEY,
    database_id BINARY(16) NOT NULL,
    revision    BIGINT     NOT NULL,
    -- Changes up to this one are no longer in binding_change.
    pruned      BIGINT     NOT NULL,
    CONSTRAINT revision_has_one_row CHECK (id = 1)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

INSERT INTO revision (id, database_id, revision, pruned)
VALUES (1, UNHEX(LEFT(SHA2(CONCAT(UUID(), RAND()), 256), 32)), 0, 0);

CREATE TABLE binding (
    id            BINARY(16)   NOT NULL PRIMARY KEY,
    -- SHA-256 of storage, bucket, filter and function: the same binding is not made twice.
    identity      BINARY(32)   NOT NULL,
    storage       VARCHAR(255) NOT NULL,
    bucket        VARCHAR(63)  NOT NULL,
    platform      VARCHAR(255) NOT NULL,
    function_name VARCHAR(140) NOT NULL,
    concurrency   BIGINT       NOT NULL,
    spec          MEDIUMTEXT   NOT NULL,
    wanted        VARCHAR(16)  NOT NULL,
    state         VARCHAR(16)  NOT NULL,
    reason        MEDIUMTEXT,
    steps         MEDIUMTEXT   NOT NULL,
    secret        VARCHAR(255) NOT NULL,
    revision      BIGINT       NOT NULL,
    created_at    BIGINT       NOT NULL,
    updated_at    BIGINT       NOT NULL,
    UNIQUE KEY binding_identity (identity),
    KEY binding_bucket (storage, bucket),
    KEY binding_function (platform, function_name)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE binding_change (
    revision BIGINT       NOT NULL,
    binding  BINARY(16)   NOT NULL,
    -- Kept here too: of a binding that is gone, this is all there is to say which bucket's index is stale.
    storage  VARCHAR(255) NOT NULL,
    bucket   VARCHAR(63)  NOT NULL,
    PRIMARY KEY (revision, binding)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE binding_history (
    binding  BINARY(16)  NOT NULL,
    revision BIGINT      NOT NULL,
    noted_at BIGINT      NOT NULL,
    state    VARCHAR(16) NOT NULL,
    reason   MEDIUMTEXT,
    PRIMARY KEY (binding, revision)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

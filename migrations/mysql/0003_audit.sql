CREATE TABLE audit (
    id       BIGINT       NOT NULL AUTO_INCREMENT PRIMARY KEY,
    noted_at BIGINT       NOT NULL,
    actor    VARCHAR(255) NOT NULL,
    action   VARCHAR(32)  NOT NULL,
    binding  BINARY(16)   NOT NULL,
    detail   MEDIUMTEXT   NOT NULL
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

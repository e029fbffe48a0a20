-- The tables that blat reads its releases from.
--
-- Oracle, PostgreSQL, MariaDB and SQLite all take this file. So it has INTEGER and VARCHAR only, no
-- automatic numbers, no IF NOT EXISTS, no LIMIT, and table aliases in queries go without AS. On
-- MariaDB, make the database with `CHARACTER SET utf8mb4 COLLATE utf8mb4_bin`: names that differ in
-- the case of a letter are two names.
--
-- blat itself only reads. `blat release import` makes and fills the built-in SQLite database; any
-- other is filled by those who run it. Where tables and columns are called otherwise, replace the
-- queries: see [release.queries] in blat.toml.

CREATE TABLE projects (
    proj_id INTEGER NOT NULL PRIMARY KEY,
    proj_name VARCHAR(255) NOT NULL UNIQUE
);

-- The official state. Open: N in development, R restricted, C under change control.
-- Closed: Y official, A archived, O closed.
-- The S3 flag says whether the release belongs into a bucket too: Y or N.
CREATE TABLE release_tags (
    rtag_id INTEGER NOT NULL PRIMARY KEY,
    proj_id INTEGER NOT NULL REFERENCES projects (proj_id),
    rtag_name VARCHAR(255) NOT NULL,
    official CHAR(1) DEFAULT 'N' NOT NULL CHECK (official IN ('N', 'R', 'C', 'Y', 'A', 'O')),
    s3_flag CHAR(1) DEFAULT 'N' NOT NULL CHECK (s3_flag IN ('Y', 'N')),
    UNIQUE (proj_id, rtag_name)
);

CREATE TABLE packages (
    pkg_id INTEGER NOT NULL PRIMARY KEY,
    pkg_name VARCHAR(255) NOT NULL UNIQUE
);

CREATE TABLE package_versions (
    pv_id INTEGER NOT NULL PRIMARY KEY,
    pkg_id INTEGER NOT NULL REFERENCES packages (pkg_id),
    pkg_version VARCHAR(255) NOT NULL,
    UNIQUE (pkg_id, pkg_version)
);

-- A release has a package in as many versions as it needs, links among them.
CREATE TABLE release_content (
    rtag_id INTEGER NOT NULL REFERENCES release_tags (rtag_id),
    pv_id INTEGER NOT NULL REFERENCES package_versions (pv_id),
    PRIMARY KEY (rtag_id, pv_id)
);

-- Thumbnails that were made ahead; explained in the SQLite schema.

CREATE TABLE thumbnail (
    instance BIGINT PRIMARY KEY REFERENCES instance (id),
    name TEXT COLLATE "C" NOT NULL,
    picture BYTEA NOT NULL
);

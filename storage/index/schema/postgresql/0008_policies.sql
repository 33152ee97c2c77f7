-- What was coerced, and what quotas have used; explained in the SQLite schema.

CREATE TABLE coercion (
    sop_instance_uid TEXT COLLATE "C" NOT NULL,
    transfer_syntax_uid TEXT COLLATE "C" NOT NULL,
    received_digest TEXT COLLATE "C" NOT NULL,
    digest TEXT COLLATE "C" NOT NULL,
    changed_at TEXT COLLATE "C" NOT NULL,
    given_by TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (sop_instance_uid, transfer_syntax_uid, received_digest)
);

CREATE TABLE quota (
    name TEXT COLLATE "C" NOT NULL,
    day TEXT COLLATE "C" NOT NULL,
    instances BIGINT NOT NULL,
    bytes BIGINT NOT NULL,
    PRIMARY KEY (name, day)
);

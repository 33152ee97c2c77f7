-- Routes by which new instances are sent to peers, and what is still to be sent; explained in the SQLite schema.

CREATE TABLE route (
    name TEXT COLLATE "C" PRIMARY KEY,
    sequence BIGINT NOT NULL
);

CREATE TABLE outbox (
    route TEXT COLLATE "C" NOT NULL,
    sop_instance_uid TEXT COLLATE "C" NOT NULL,
    study_instance_uid TEXT COLLATE "C" NOT NULL,
    series_instance_uid TEXT COLLATE "C" NOT NULL,
    attempts BIGINT NOT NULL DEFAULT 0,
    due BIGINT NOT NULL,
    PRIMARY KEY (route, sop_instance_uid)
);

CREATE INDEX outbox_by_due ON outbox (route, due);

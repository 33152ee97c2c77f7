-- Routes by which new instances are sent to peers, and what of them is still to be sent.

CREATE TABLE route (
    -- What the operator has written: another text is another route.
    name TEXT PRIMARY KEY,
    -- The change up to which instances were looked at.
    sequence INTEGER NOT NULL
) STRICT;

CREATE TABLE outbox (
    route TEXT NOT NULL,
    sop_instance_uid TEXT NOT NULL,
    study_instance_uid TEXT NOT NULL,
    series_instance_uid TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    -- Seconds since 1970: not to be sent before; whoever sends it puts that off, so that nobody else does.
    due INTEGER NOT NULL,
    PRIMARY KEY (route, sop_instance_uid)
) STRICT;

CREATE INDEX outbox_by_due ON outbox (route, due);

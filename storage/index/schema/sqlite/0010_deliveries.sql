-- The ingest ledger: what each association, STOW request and import run brought.

CREATE TABLE delivery (
    id INTEGER PRIMARY KEY,
    -- Made by who counts it, so that it can be written again while it goes on.
    delivery_key TEXT NOT NULL UNIQUE,
    started_at TEXT NOT NULL,
    last_at TEXT NOT NULL,
    -- How it ended; empty while nobody has seen that.
    ending TEXT NOT NULL,
    door TEXT NOT NULL,
    calling_ae TEXT NOT NULL,
    called_ae TEXT NOT NULL,
    address TEXT NOT NULL,
    -- Instances by outcome, and those that were refused by class of error, the first one first: JSON objects.
    outcomes TEXT NOT NULL,
    failed INTEGER NOT NULL,
    size_bytes INTEGER NOT NULL,
    errors TEXT NOT NULL
) STRICT;

CREATE INDEX delivery_by_time ON delivery (last_at, id);

CREATE TABLE delivery_study (
    study_instance_uid TEXT NOT NULL,
    delivery INTEGER NOT NULL REFERENCES delivery (id),
    outcomes TEXT NOT NULL,
    PRIMARY KEY (study_instance_uid, delivery)
) STRICT, WITHOUT ROWID;

CREATE INDEX delivery_study_by_delivery ON delivery_study (delivery);

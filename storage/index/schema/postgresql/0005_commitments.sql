-- Requests to commit to the storage of instances; explained in the SQLite schema.

CREATE TABLE commitment (
    transaction_uid TEXT COLLATE "C" PRIMARY KEY,
    door TEXT NOT NULL,
    calling_ae TEXT NOT NULL,
    address TEXT NOT NULL,
    requested_at BIGINT NOT NULL,
    answered_at BIGINT,
    weight BIGINT NOT NULL,
    reference BYTEA NOT NULL,
    reason BYTEA
);

CREATE INDEX commitment_by_answer ON commitment (answered_at, weight);

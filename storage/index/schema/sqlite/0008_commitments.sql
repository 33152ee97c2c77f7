-- Requests to commit to the storage of instances. Which of them are still to be answered is in the outbox.

CREATE TABLE commitment (
    transaction_uid TEXT PRIMARY KEY,
    door TEXT NOT NULL,
    calling_ae TEXT NOT NULL,
    address TEXT NOT NULL,
    -- Seconds since 1970.
    requested_at INTEGER NOT NULL,
    -- NULL until nothing is to be done about it any more.
    answered_at INTEGER,
    -- How many of its references are kept, and what the row itself counts for.
    weight INTEGER NOT NULL,
    -- See storage/commitment.py. Empty once a peer has been told.
    reference BLOB NOT NULL,
    -- What was said, where somebody may come for it.
    reason BLOB
) STRICT;

CREATE INDEX commitment_by_answer ON commitment (answered_at, weight);

-- What was coerced on its way in: the bytes that came, by their digest, and the Data Set that was made of them, so that
-- the same bytes are known when they come again.

CREATE TABLE coercion (
    sop_instance_uid TEXT NOT NULL,
    transfer_syntax_uid TEXT NOT NULL,
    received_digest TEXT NOT NULL,
    digest TEXT NOT NULL,
    -- What is said in the Data Set: the time, a DICOM DT, and the AE title that the bytes came from.
    changed_at TEXT NOT NULL,
    given_by TEXT NOT NULL,
    PRIMARY KEY (sop_instance_uid, transfer_syntax_uid, received_digest)
) STRICT, WITHOUT ROWID;

-- What was kept in a day (UTC) of all that a rule with a quota is for.
CREATE TABLE quota (
    name TEXT NOT NULL,
    day TEXT NOT NULL,
    instances INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    PRIMARY KEY (name, day)
) STRICT, WITHOUT ROWID;

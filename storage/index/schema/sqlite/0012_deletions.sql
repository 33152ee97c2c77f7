-- What was deleted at once, and by whom; what of it is still kept; and what nobody may delete.

CREATE TABLE deletion (
    -- Rows are never deleted, so no number comes again.
    id INTEGER PRIMARY KEY,
    study_instance_uid TEXT NOT NULL,
    series_instance_uid TEXT NOT NULL,
    sop_instance_uid TEXT NOT NULL,
    deleted_at TEXT NOT NULL,
    door TEXT NOT NULL,
    calling_ae TEXT NOT NULL,
    address TEXT NOT NULL,
    number_of_series INTEGER NOT NULL,
    number_of_instances INTEGER NOT NULL,
    number_of_objects INTEGER NOT NULL,
    size_bytes INTEGER NOT NULL
) STRICT;

CREATE INDEX deletion_by_source ON deletion (door, address, deleted_at);
CREATE INDEX deletion_by_time ON deletion (deleted_at);
CREATE INDEX deletion_by_scope ON deletion (study_instance_uid, series_instance_uid, sop_instance_uid);

-- A hold on a study or series is one on all below it, also on what was deleted and is not collected yet.
CREATE TABLE hold (
    study_instance_uid TEXT NOT NULL,
    series_instance_uid TEXT NOT NULL,
    sop_instance_uid TEXT NOT NULL,
    held_at TEXT NOT NULL,
    PRIMARY KEY (study_instance_uid, series_instance_uid, sop_instance_uid)
) STRICT, WITHOUT ROWID;

-- A tombstone with an object names the resource that it belonged to: of a rival, the instance it came after.
ALTER TABLE tombstone ADD COLUMN deletion INTEGER REFERENCES deletion (id);
-- Of the object: '' for none; "kept" while it can be brought back, and "returned" when it was; "spent" when it is to be
-- removed, and "collected" when it was. A key that was spent is never used again (see storage/index/tombstones.py).
ALTER TABLE tombstone ADD COLUMN object_state TEXT NOT NULL DEFAULT '';
-- How often it was spent: also by a store that has put it there once more before it learnt that.
ALTER TABLE tombstone ADD COLUMN times_spent INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tombstone ADD COLUMN size_bytes INTEGER NOT NULL DEFAULT 0;
-- Who had brought it.
ALTER TABLE tombstone ADD COLUMN door TEXT NOT NULL DEFAULT '';
ALTER TABLE tombstone ADD COLUMN calling_ae TEXT NOT NULL DEFAULT '';
ALTER TABLE tombstone ADD COLUMN address TEXT NOT NULL DEFAULT '';

-- What was deleted before this was written down: the change feed has said it.
INSERT INTO deletion (study_instance_uid, series_instance_uid, sop_instance_uid, deleted_at, door, calling_ae, address,
    number_of_series, number_of_instances, number_of_objects, size_bytes)
SELECT change.study_instance_uid, change.series_instance_uid, change.sop_instance_uid, change.changed_at, '', '', '',
    count(DISTINCT tombstone.series_instance_uid), count(DISTINCT tombstone.sop_instance_uid), count(*), 0
FROM change JOIN tombstone ON tombstone.deleted_at = change.changed_at AND tombstone.object_key <> ''
    AND tombstone.study_instance_uid = change.study_instance_uid
    AND change.series_instance_uid IN ('', tombstone.series_instance_uid)
    AND change.sop_instance_uid IN ('', tombstone.sop_instance_uid)
WHERE change.kind = 'deleted'
GROUP BY change.sequence, change.study_instance_uid, change.series_instance_uid, change.sop_instance_uid,
    change.changed_at
ORDER BY change.sequence;

UPDATE tombstone SET deletion = (
    SELECT max(deletion.id) FROM deletion WHERE deletion.deleted_at = tombstone.deleted_at
        AND deletion.study_instance_uid = tombstone.study_instance_uid
);

-- What came again since has a row.
UPDATE tombstone SET object_state = CASE
    WHEN EXISTS (SELECT 1 FROM instance WHERE instance.sop_instance_uid = tombstone.sop_instance_uid
            AND instance.object_key = tombstone.object_key)
        OR EXISTS (SELECT 1 FROM rival WHERE rival.sop_instance_uid = tombstone.sop_instance_uid
            AND rival.object_key = tombstone.object_key)
    THEN 'returned' ELSE 'kept' END
WHERE object_key <> '';

CREATE INDEX tombstone_by_key ON tombstone (object_key) WHERE object_key <> '';
CREATE INDEX tombstone_by_state ON tombstone (object_state, deleted_at, id);
CREATE INDEX tombstone_by_deletion ON tombstone (deletion, id);
CREATE INDEX tombstone_by_deletion_and_state ON tombstone (deletion, object_state);

-- The archive as rows. Columns named after attributes hold search forms: NULL is no value, text a single one, and
-- several values are U+001F and a JSON array (see storage/index/columns.py). What is returned is in "attributes",
-- the DICOM JSON Model in lines of which answers are made (see storage/index/fragments.py). Rows that searches scan are narrow; what was derived at ingest is in "document".

CREATE TABLE study (
    id INTEGER PRIMARY KEY,
    study_instance_uid TEXT NOT NULL UNIQUE,
    -- Date and time of the study in digits that sort; part of the order of study lists.
    study_order TEXT NOT NULL,
    patient_name TEXT,
    patient_name_ideographic TEXT,
    patient_name_phonetic TEXT,
    patient_id TEXT,
    issuer_of_patient_id TEXT,
    patient_birth_date TEXT,
    patient_sex TEXT,
    study_date TEXT,
    study_time TEXT,
    accession_number TEXT,
    referring_physician_name TEXT,
    referring_physician_name_ideographic TEXT,
    referring_physician_name_phonetic TEXT,
    study_description TEXT,
    study_id TEXT,
    modalities_in_study TEXT,
    sop_classes_in_study TEXT,
    number_of_study_related_series INTEGER NOT NULL DEFAULT 0,
    number_of_study_related_instances INTEGER NOT NULL DEFAULT 0,
    attributes TEXT NOT NULL
) STRICT;

CREATE INDEX study_by_order ON study (study_order DESC, study_instance_uid DESC);
CREATE INDEX study_by_patient_id ON study (patient_id) WHERE patient_id IS NOT NULL;
CREATE INDEX study_by_patient_name ON study (patient_name) WHERE patient_name IS NOT NULL;
CREATE INDEX study_by_patient_name_ideographic ON study (patient_name_ideographic)
    WHERE patient_name_ideographic IS NOT NULL;
CREATE INDEX study_by_patient_name_phonetic ON study (patient_name_phonetic)
    WHERE patient_name_phonetic IS NOT NULL;
CREATE INDEX study_by_accession_number ON study (accession_number) WHERE accession_number IS NOT NULL;
CREATE INDEX study_by_study_date ON study (study_date, study_time) WHERE study_date IS NOT NULL;

CREATE TABLE series (
    id INTEGER PRIMARY KEY,
    study INTEGER NOT NULL REFERENCES study (id),
    series_instance_uid TEXT NOT NULL,
    -- Series Number as an integer, largest where there is none; part of the order of series and instances.
    series_order INTEGER NOT NULL,
    modality TEXT,
    series_number TEXT,
    series_description TEXT,
    series_date TEXT,
    series_time TEXT,
    body_part_examined TEXT,
    protocol_name TEXT,
    performing_physician_name TEXT,
    performing_physician_name_ideographic TEXT,
    performing_physician_name_phonetic TEXT,
    institution_name TEXT,
    station_name TEXT,
    manufacturer_model_name TEXT,
    performed_procedure_step_start_date TEXT,
    performed_procedure_step_start_time TEXT,
    scheduled_procedure_step_id TEXT,
    requested_procedure_id TEXT,
    number_of_series_related_instances INTEGER NOT NULL DEFAULT 0,
    attributes TEXT NOT NULL,
    UNIQUE (study, series_instance_uid)
) STRICT;

CREATE INDEX series_by_uid ON series (series_instance_uid);
CREATE INDEX series_by_order ON series (series_order, series_instance_uid);

CREATE TABLE instance (
    id INTEGER PRIMARY KEY,
    series INTEGER NOT NULL REFERENCES series (id),
    sop_instance_uid TEXT NOT NULL UNIQUE,
    -- Instance Number as an integer, largest where there is none; part of the order of instances.
    instance_order INTEGER NOT NULL,
    sop_class_uid TEXT NOT NULL,
    instance_number TEXT,
    acquisition_date_time TEXT,
    transfer_syntax_uid TEXT NOT NULL,
    digest TEXT NOT NULL,
    object_key TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    data_set_offset INTEGER NOT NULL,
    number_of_frames INTEGER NOT NULL,
    received_at TEXT NOT NULL,
    last_received_at TEXT NOT NULL,
    receive_count INTEGER NOT NULL DEFAULT 1,
    door TEXT NOT NULL,
    calling_ae TEXT NOT NULL,
    address TEXT NOT NULL,
    -- 1 where the instance names another patient than the first instance of its study.
    has_other_patient INTEGER NOT NULL,
    attributes TEXT NOT NULL
) STRICT;

CREATE INDEX instance_by_order ON instance (series, instance_order, sop_instance_uid);

CREATE TABLE document (
    instance INTEGER PRIMARY KEY REFERENCES instance (id),
    metadata BLOB NOT NULL,
    frame_table BLOB NOT NULL,
    bulk BLOB NOT NULL
) STRICT;

-- Other bytes that came under the SOP Instance UID of an instance that was there: kept, but never served as it.
CREATE TABLE rival (
    id INTEGER PRIMARY KEY,
    outcome TEXT NOT NULL,
    study_instance_uid TEXT NOT NULL,
    series_instance_uid TEXT NOT NULL,
    sop_instance_uid TEXT NOT NULL,
    sop_class_uid TEXT NOT NULL,
    transfer_syntax_uid TEXT NOT NULL,
    digest TEXT NOT NULL,
    object_key TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    data_set_offset INTEGER NOT NULL,
    number_of_frames INTEGER NOT NULL,
    received_at TEXT NOT NULL,
    last_received_at TEXT NOT NULL,
    receive_count INTEGER NOT NULL DEFAULT 1,
    door TEXT NOT NULL,
    calling_ae TEXT NOT NULL,
    address TEXT NOT NULL,
    UNIQUE (sop_instance_uid, transfer_syntax_uid, digest)
) STRICT;

-- One row for each resource that was deleted, and for each object that lost its row by it (object_key, else '').
CREATE TABLE tombstone (
    id INTEGER PRIMARY KEY,
    study_instance_uid TEXT NOT NULL,
    series_instance_uid TEXT NOT NULL,
    sop_instance_uid TEXT NOT NULL,
    object_key TEXT NOT NULL,
    deleted_at TEXT NOT NULL
) STRICT;

CREATE INDEX tombstone_by_scope ON tombstone (study_instance_uid, series_instance_uid, sop_instance_uid);

CREATE TABLE change (
    -- Rows are never deleted, so no number comes again.
    sequence INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    study_instance_uid TEXT NOT NULL,
    series_instance_uid TEXT NOT NULL,
    sop_instance_uid TEXT NOT NULL,
    changed_at TEXT NOT NULL
) STRICT;

-- refill: study, series
-- What probes ask (see storage/index/probes.py), and the words of names, for fuzzy matching.

ALTER TABLE study ADD COLUMN patient_name_words TEXT;
ALTER TABLE study ADD COLUMN referring_physician_name_words TEXT;
ALTER TABLE series ADD COLUMN performing_physician_name_words TEXT;

CREATE INDEX series_by_modality ON series (modality, study) WHERE modality IS NOT NULL;

-- A page of studies with common keys is read in its order. What is asked for most is in the index, so that nothing but
-- what fits is fetched from the table: that makes it thirty times as fast.
DROP INDEX study_by_order;
CREATE INDEX study_by_order ON study (
    study_order DESC, study_instance_uid DESC, patient_name, patient_name_ideographic, patient_name_phonetic,
    modalities_in_study
);

-- The latest study of a patient is the last one here, however many there are of one ID.
DROP INDEX study_by_patient_id;
CREATE INDEX study_by_patient_id ON study (patient_id, study_order, study_instance_uid) WHERE patient_id IS NOT NULL;

-- A range of dates is a part of the order of studies, but for those with several.
DROP INDEX study_by_study_date;
CREATE INDEX study_by_several_dates ON study (id) WHERE study_date < ' ';

-- Which studies have three characters in a column one after the other.
CREATE VIRTUAL TABLE study_text USING fts5 (
    patient_name, patient_name_ideographic, patient_name_phonetic, patient_name_words, patient_id, accession_number,
    study_description,
    content = '', contentless_delete = 1, detail = column, tokenize = 'trigram case_sensitive 1'
);

INSERT INTO study_text (
    rowid, patient_name, patient_name_ideographic, patient_name_phonetic, patient_name_words, patient_id,
    accession_number, study_description
) SELECT
    id, patient_name, patient_name_ideographic, patient_name_phonetic, patient_name_words, patient_id,
    accession_number, study_description
FROM study;

CREATE TRIGGER study_text_of_new AFTER INSERT ON study BEGIN
    INSERT INTO study_text (
        rowid, patient_name, patient_name_ideographic, patient_name_phonetic, patient_name_words, patient_id,
        accession_number, study_description
    ) VALUES (
        new.id, new.patient_name, new.patient_name_ideographic, new.patient_name_phonetic, new.patient_name_words,
        new.patient_id, new.accession_number, new.study_description
    );
END;

CREATE TRIGGER study_text_of_changed AFTER UPDATE OF
    patient_name, patient_name_ideographic, patient_name_phonetic, patient_name_words, patient_id, accession_number,
    study_description
ON study WHEN
    (
        old.patient_name, old.patient_name_ideographic, old.patient_name_phonetic, old.patient_name_words,
        old.patient_id, old.accession_number, old.study_description
    ) IS NOT (
        new.patient_name, new.patient_name_ideographic, new.patient_name_phonetic, new.patient_name_words,
        new.patient_id, new.accession_number, new.study_description
    )
BEGIN
    DELETE FROM study_text WHERE rowid = old.id;
    INSERT INTO study_text (
        rowid, patient_name, patient_name_ideographic, patient_name_phonetic, patient_name_words, patient_id,
        accession_number, study_description
    ) VALUES (
        new.id, new.patient_name, new.patient_name_ideographic, new.patient_name_phonetic, new.patient_name_words,
        new.patient_id, new.accession_number, new.study_description
    );
END;

CREATE TRIGGER study_text_of_deleted AFTER DELETE ON study BEGIN
    DELETE FROM study_text WHERE rowid = old.id;
END;

-- A probe for the beginning of a name may find hundreds of studies, of which a page has the latest: where they are in
-- the order is said here, so that only the rows of that page are read.

DROP INDEX study_by_patient_name;
CREATE INDEX study_by_patient_name ON study (patient_name, study_order, study_instance_uid)
    WHERE patient_name IS NOT NULL;
DROP INDEX study_by_patient_name_ideographic;
CREATE INDEX study_by_patient_name_ideographic ON study (patient_name_ideographic, study_order, study_instance_uid)
    WHERE patient_name_ideographic IS NOT NULL;
DROP INDEX study_by_patient_name_phonetic;
CREATE INDEX study_by_patient_name_phonetic ON study (patient_name_phonetic, study_order, study_instance_uid)
    WHERE patient_name_phonetic IS NOT NULL;

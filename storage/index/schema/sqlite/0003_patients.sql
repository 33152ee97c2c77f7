-- The latest study of a patient is the last one here, however many there are of one ID.

DROP INDEX study_by_patient_id;
CREATE INDEX study_by_patient_id ON study (patient_id, study_order, study_instance_uid) WHERE patient_id IS NOT NULL;

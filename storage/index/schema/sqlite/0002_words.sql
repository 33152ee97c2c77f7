-- refill: study, series
-- The words of names, for fuzzy matching.

ALTER TABLE study ADD COLUMN patient_name_words TEXT;
ALTER TABLE study ADD COLUMN referring_physician_name_words TEXT;
ALTER TABLE series ADD COLUMN performing_physician_name_words TEXT;

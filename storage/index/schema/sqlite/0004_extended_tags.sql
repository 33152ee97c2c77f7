-- Attributes that an operator has made searchable. Each value is a row with its search form: component is the component
-- group of a name from 0, 3 for the words of names; place is the number of the value, or of the item that has it.

CREATE TABLE study_extended (
    owner INTEGER NOT NULL REFERENCES study (id) ON DELETE CASCADE,
    tag TEXT NOT NULL,
    component INTEGER NOT NULL,
    place INTEGER NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (owner, tag, component, place)
) STRICT, WITHOUT ROWID;

CREATE INDEX study_extended_by_value ON study_extended (tag, value);

CREATE TABLE series_extended (
    owner INTEGER NOT NULL REFERENCES series (id) ON DELETE CASCADE,
    tag TEXT NOT NULL,
    component INTEGER NOT NULL,
    place INTEGER NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (owner, tag, component, place)
) STRICT, WITHOUT ROWID;

CREATE INDEX series_extended_by_value ON series_extended (tag, value);

CREATE TABLE instance_extended (
    owner INTEGER NOT NULL REFERENCES instance (id) ON DELETE CASCADE,
    tag TEXT NOT NULL,
    component INTEGER NOT NULL,
    place INTEGER NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (owner, tag, component, place)
) STRICT, WITHOUT ROWID;

CREATE INDEX instance_extended_by_value ON instance_extended (tag, value);

-- What the rows of a tag are made of (see storage/index/extended.py), and the instance up to which all have theirs.
CREATE TABLE extended_tag (
    tag TEXT PRIMARY KEY,
    definition TEXT NOT NULL,
    indexed_to INTEGER NOT NULL
) STRICT;

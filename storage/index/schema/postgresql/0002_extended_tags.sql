-- Attributes that an operator has made searchable; explained in the SQLite schema.

CREATE TABLE study_extended (
    owner BIGINT NOT NULL REFERENCES study (id) ON DELETE CASCADE,
    tag TEXT COLLATE "C" NOT NULL,
    component BIGINT NOT NULL,
    place BIGINT NOT NULL,
    value TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (owner, tag, component, place)
);

CREATE INDEX study_extended_by_value ON study_extended (tag, left(value, 128));

CREATE TABLE series_extended (
    owner BIGINT NOT NULL REFERENCES series (id) ON DELETE CASCADE,
    tag TEXT COLLATE "C" NOT NULL,
    component BIGINT NOT NULL,
    place BIGINT NOT NULL,
    value TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (owner, tag, component, place)
);

CREATE INDEX series_extended_by_value ON series_extended (tag, left(value, 128));

CREATE TABLE instance_extended (
    owner BIGINT NOT NULL REFERENCES instance (id) ON DELETE CASCADE,
    tag TEXT COLLATE "C" NOT NULL,
    component BIGINT NOT NULL,
    place BIGINT NOT NULL,
    value TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (owner, tag, component, place)
);

CREATE INDEX instance_extended_by_value ON instance_extended (tag, left(value, 128));

CREATE TABLE extended_tag (
    tag TEXT COLLATE "C" PRIMARY KEY,
    definition TEXT COLLATE "C" NOT NULL,
    indexed_to BIGINT NOT NULL
);

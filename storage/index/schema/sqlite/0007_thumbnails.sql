-- Thumbnails that were made ahead, of the instances that stand for their series. Anybody can make them again.

CREATE TABLE thumbnail (
    instance INTEGER PRIMARY KEY REFERENCES instance (id),
    -- Of the content and of the way it is shown: a thumbnail of another name is of no use any more.
    name TEXT NOT NULL,
    picture BLOB NOT NULL
) STRICT;

-- Who is told of changes in their order, and what of it was given up.

CREATE TABLE subscriber (
    -- What the operator calls it: another name is another subscriber.
    name TEXT PRIMARY KEY,
    -- The change up to which it was told, or the telling was given up.
    sequence INTEGER NOT NULL,
    -- The last change of what is being told, which stays the same until it was; 0: nothing is.
    until_sequence INTEGER NOT NULL DEFAULT 0,
    -- How often that was tried, and how often refused.
    attempts INTEGER NOT NULL DEFAULT 0,
    refusals INTEGER NOT NULL DEFAULT 0,
    -- Seconds since 1970 of the first of the failures since it was last told something; 0: there was none.
    failing_since INTEGER NOT NULL DEFAULT 0,
    -- Seconds since 1970: not to be told before; whoever tells it puts that off, so that nobody else does.
    due INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE undelivered (
    -- No number comes again, as operators write them down.
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    subscriber TEXT NOT NULL,
    after_sequence INTEGER NOT NULL,
    until_sequence INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    reason TEXT NOT NULL,
    -- Seconds since 1970.
    given_up_at INTEGER NOT NULL,
    -- Seconds since 1970 from which on it is to be told once more; NULL: not, until somebody says so.
    due INTEGER
) STRICT;

CREATE INDEX undelivered_by_due ON undelivered (subscriber, due) WHERE due IS NOT NULL;

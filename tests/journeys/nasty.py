"""Values that equipment writes and peers ask for, common ones first, and strings that attack whoever trusts them."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

# fmt: off
# What a value may be. The first of each pool are common, the rest is rare and nasty.
TEXTS = (
    "A", "B", "AB", "CT Head", "head", "Head", "KOPF", "1", "10", "a", "a b", "a  b", " a", "a ", " a b ", "abc", "é",
    "e\u0301", "É", "ß", "SS", "ﬀ", "İ", "日本", "日本語", "Ελλάς", "%", "100%", "a%b", "_", "a_b", "axb", "\\", "a\\b",
    "\\\\", "a \\ b", "'", "''", '"', '""', '"a"', '["a"]', "`", "[", "]", "[a]", "[a-c]", "[!a]", "[^a]b", "a]b",
    "*", "a*b", "?", "a?b", "^", "a^b", "a=b", "=", ",", "a,b", "-", "\x1f", '\x1f["a"]', "\x00", "a\x00b", "a\nb",
    "a\tb", "\r", "\x7f", "\u0085", "\u00a0a", "\u3000b", "\u2028", "\ufeffa", "null", "NULL", "0", "0.0", "01",
    "true", "{}", "$1", "\ud7ff", "\ue000", "\U0010ffff", "a\U0010ffff", "\U0001f642", "z" * 64, "z" * 255 + "y",
    "z" * 256, "z" * 1024, "z" * 1030, "y" * 1023 + " z", "ö" * 1024 + "x", "\u202ea", " ", "  ",
)
CODES = (
    "CT", "MR", "SR", "US", "PR", "OT", "M", "F", "O", "ct", "C_T", "CT ", " MR", "", "É", "*", "C?", "[CT]", "CT,MR",
    "CT\\MR",
)
NAMES: tuple = (
    "Doe^Jane", "DOE^JANE", "Doe", "Doe^^^", "Doe^John^Q^Dr^Jr", "Doerr^Jane", "Doe^Anna Luise", "Smith^J", "Smith",
    "Müller^Jörg", "Mu\u0308ller^Jo\u0308rg", "MÜLLER^J", "Mueller^Joerg", "Straße^A", "STRASSE^A", "ΠΑΠΠΑΣ",
    "παππας^Γ", "O'Brien^Pat", "d'Arc", "de la Cruz^Ana Mária", "Doe ^ Jane", " Doe^Jane ", "^Jane", "^^Q", "^", "",
    "*", "D?e", "[Doe]", "100%^A", "D_e^J", "D\\e", '"Doe"', "Doe\x00^Jane", "İnce^I", "ǅ^ǆ", "ﬀ^ﬃ", "w" * 1030,
    "w" * 1023 + "^x", "Doe^" + "J" * 90,
    {"Alphabetic": "Yamada^Tarou", "Ideographic": "山田^太郎", "Phonetic": "やまだ^たろう"},
    {"Alphabetic": "Yamada^Hanako", "Ideographic": "山田^花子"},
    {"Alphabetic": "Hong^Gildong", "Ideographic": "洪^吉洞", "Phonetic": "홍^길동"}, {"Ideographic": "山田^花子"},
    {"Phonetic": "Doe^Jane"}, {"Alphabetic": "", "Ideographic": "王^小東"}, {"Alphabetic": "^^"},
    "Wang^XiaoDong=王^小東", "Doe^Jane==ど", "=山田", {"Alphabetic": "か\u3099^A"}, {"Alphabetic": "が^A"},
)
DATES = (
    "20200101", "20200102", "20200131", "20200229", "20201231", "20210615", "19991231", "20260102", "2020.01.02",
    "2020.0102", "1999", "202001", "20200230", "20201301", "00000000", "99999999", "unknown", "2020-01-01",
    "２０２００１０１", " 20200101 ", "20200101\x00", "", "0001.01.01",
)
TIMES = (
    "10", "1015", "101530", "101530.5", "101530.123456", "000000", "235959.999999", "120000", "10:15:30", "10:15",
    "10:15:30.5", "235960", "240000", "1060", "9", "noon", "1015.5", " 1015 ", "00", "23", "101530.1234567",
)
DATE_TIMES = (
    "20200101120000", "20200101", "2020", "202001", "2020010112", "202001011200", "20200101120000.5",
    "20200101120000+0100", "20200101120000-0500", "20200101130000+0100", "20200101120000+0000", "20200101-0500",
    "2020-0500", "20200101235959.999999", "20191231233000-0100", "20200230", "20200101120060", "00010101000000+0100",
    "99991231235959-0100", "x", "20200101120000+1500", "20200101T120000", "2020010112000", " 2020 ",
)
NUMBERS: tuple = (
    1, 2, 3, 10, "1", "2", "01", "1.0", "1e0", "+1", " 1 ", 0, "-0", -1, "-1", 1.5, "1.5", 1e3, "1000", "1E3", "NaN",
    "Infinity", "x", "1,5", "", str(2**62), str(2**62 - 1), "1e30", "-1e30", "1e-7", "1_0", "１", "9" * 30, "1" * 70,
    "4611686018427387904.5", "1e999999", "1e9999999999", "0x10", "12\x00",
)

# What is asked beside what is held.
ASKED: Mapping[str, tuple[str, ...]] = {
    "PN": (
        "doe*", "*^j*", "d?e", "doe^*", "*=山田*", "=山田^*", "==*ど*", "doe==", "a=b=c=d", "=", "^", "*^*^*",
        "jane doe", "jörg m",
    ),
    "DA": (
        "20200101-", "-20200102", "20200101-20201231", "20200115-20200110", "-", "2020", "2020-01-01", "20200101-x",
    ),
    "TM": (
        "10-", "-1015", "22-1015", "1015-22", "101530-101530", "-", "10:15-10:16", "25", "235959.5-000000",
    ),
    "DT": (
        "2020-2021", "-2020", "20200101-", "20200101-0500-", "2020-0500-2021-0500", "2021-2020", "-",
        "20200101120000-0500",
    ),
    "IS": (
        "1", "01", "1.0", "1e0", "1*", "one", "NaN", "-1", "1e3", "1e30", "1\\2",
    ),
    "UI": (
        "1.2.*", "1.2", "", "1.2\\1.3", "1.2,,1.3", "a", "1" * 65,
    ),
    "CS": (
        "C*", "?R", "CT,MR", "CT\\US\\MR", "ct", "CT,", ",", "*", "M?,S*",
    ),
}
ASKED_TEXTS = (
    *TEXTS, "a*", "*b", "*a*", "?", "??", "a?b", "[a-c]*", "*[*", "*\\*", "a\\*", "*'*", '*"*', "*,*", "*%*", "*_*",
    "?" * 9, "*?" * 4,
)

# What somebody might hope is not only compared: SQL, GLOB and LIKE, full text search, JSON, templates, Unicode.
FRAGMENTS = (
    "'", '"', "''", "`", ";", "--", "/*", "*/", "#", "\\", "\\'", '\\"', "%", "_", "%%", "\\%", "||", "(", ")", "))",
    "=", "<", ">", "' OR '1'='1", "' OR 1=1 --", '" OR ""="', "'; DROP TABLE study; --", '"; DROP TABLE study; --',
    "') OR ('1'='1", "1; DELETE FROM instance", "' UNION SELECT patient_name FROM study --",
    "' AND sqlite_version() --", "x' AND 1=CAST((SELECT 1) AS int) --", "'||(SELECT 1)||'", "[", "]", "[]", "[a-z]",
    "[!a]", "[^a]", "[]]", "[*]", "[?]", "*", "?", "**", "?*?", "a*b*c", "\\*", "\\?", "{a,b}", "!(a)", '"a" AND "b"',
    "a OR b", "NEAR(a b, 2)", "a*", "^a", "-a", "a NOT b", "patient_name:doe", '"', "col : x", "{a b}:c", "a + b",
    "?1", ":name", "@name", "$name", "$1", "%s", "%d", "%n", "%(name)s", "{}", "{0}", "{selected}", "{condition}",
    "${x}", "#{x}", "{{7*7}}", "NULL", "null", "true", "0", "1=1", "1e0", "-1", "0x00", "x'00'", "X'41'", "1.2.3",
    "20200101", "10-11", "NaN", "Infinity", '\x1f["A"]', "\x1f", "\x1e", "\x00", "a\x00b", "\x00'", "A\nB", "\r\n",
    "\t", "\x7f", "\x1b$B", "\x1b(J", "\x85", "\xa0", '["a"]', '{"a":1}', '"],"b":["', "]}", "\\u0000", "\\x1f",
    '","', "null]", "[[", '{"vr":"PN"}', "</script>", "<!--", "&amp;", "]]>", "日本", "山田'--", "é", "e\u0301", "ﬀ",
    "İ", "ı", "ſ", "K", "Å", "ß", "Σς", "ǅ", "\u200b", "\u200d", "\u202e", "\u2066", "\ufeff", "\ufffd", "\ufffe",
    "\U0001f642", "\U0010ffff", "\ud7ff", "\ue000", "\u0300", "a\u0300\u0301\u0302", "\u115f", "＇", "％", "＿", "＊",
    "？", "../../etc/passwd", "file:///etc/passwd", "$(id)", "`id`", "|id", "&& id", "%00", "%27", "%5C", "+",
    "&limit=1", "\\\\host\\c$", "CAST(1 AS TEXT)", "json_each('[1]')", "char(39)", "substr(a,1)", "GLOB '*'",
    "LIKE '%'", "ESCAPE '\\'", "MATCH 'a'", "REGEXP '.*'", "pg_sleep(5)", "E'\\\\x27'", "$$a$$", "$q$'$q$", "::text",
    "U&'\\0027'", "~* 'a'", "SIMILAR TO '%'", "COLLATE NOCASE", "rowid", "study.id",
)
RUNS = (
    "*", "?", "*?", "?*", "a*", "*a", "%", "_", "'", '"', "\\", "[", "]", "[*]", "(", "\x00", "\u0301", "日*",
)
# fmt: on


def hostile(count: int, seed: str) -> list[str]:
    """So many different strings that somebody might hope are not only compared; none of them is a lone surrogate."""
    chance = Random(f"{seed}/hostile")
    found = dict.fromkeys(
        (*FRAGMENTS, *(run * times for run in RUNS for times in (2, 4, 8, 9, 64, 128, 255, 256, 300)))
    )
    shapes = (
        "{0}{1}",
        "Doe{0}",
        "{0}*",
        "*{0}",
        "*{0}*",
        "{0}?",
        "{0} {1}",
        "a{0}b{1}c",
        "{0}^{1}",
        "{0}={1}",
        "{0}\\{1}",
        "{0},{1}",
        "{0}-{1}",
        "{0}{1}{2}",
    )
    while len(found) < count:
        parts = [chance.choice(FRAGMENTS) for _ in range(3)]
        text = chance.choice(shapes)
        for number, part in enumerate(parts):
            text = text.replace(f"{{{number}}}", part, 1)
        found.setdefault(text)
    return list(found)[:count]

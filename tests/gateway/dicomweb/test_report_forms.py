"""Reports as HTML and plain text: DCMTK says what has to be in them, and nothing in them runs."""

from __future__ import annotations

import re
import subprocess
from html.parser import HTMLParser

import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file

from gateway.dicomweb import report_forms
from gateway.dicomweb.report import Report
from gateway.dicomweb.report_forms import HTML, PLAIN, write
from gateway.dicomweb.responses import resource_url
from storage.errors import TooLarge
from tests.fix_samples import SAMPLES
from tests.reports import RandomReports, code, container, content, document, item, metadata, part10, reference, text

HOSTILE = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>&#60;\0\x1b[31m"
VOID = {"meta", "img", "br", "link", "input"}
LINE = re.compile(
    r' *<(?:(?P<relationship>[a-z ]+) )?(?P<type>[A-Z0-9]+):(?:\(,,"(?P<name>.*?)"\))?=(?P<value>.*?)>(?: \{[^}]*\})?'
)
UNIT = re.compile(r'"([^"]*)" \(.*?,.*?,"(.*)"\)')
CODED = re.compile(r'\((.*?),(.*?),"(.*)"\)')


def forms(data_set):
    report = Report.of(metadata(data_set), lambda scope: resource_url("https://pacs/dicomweb", scope))
    return write(report, HTML).decode("utf-8"), write(report, PLAIN).decode("utf-8")


class Page(HTMLParser):
    """Text and elements of a page; fails where elements do not close as they were opened."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.open, self.elements, self.texts = [], [], []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.texts.append(data)

    @property
    def text(self):
        return words("".join(self.texts))


def words(value):
    return " ".join(value.split())


def dumped(path):
    """What dsrdump prints of the content of a report, long values whole."""
    run = subprocess.run(
        ["dsrdump", "-q", "-Ph", "+U8", "+Pl", "-Ec", "-Ev", "-Ee", "-Er", path],
        capture_output=True,
        check=True,
        timeout=30,
    )
    return [line for line in run.stdout.decode("utf-8").split("\n") if line.strip()]


def date(digits):
    parts = [digits[:4], digits[4:6], digits[6:8]]
    return "-".join(parts) + (" " + time(digits[8:]) if digits[8:] else "")


def time(digits):
    return ":".join(digits[at : at + 2] for at in range(0, len(digits), 2))


def number(value, unit):
    """JSON has no trailing zeros."""
    return [repr(float(value)).removesuffix(".0"), unit]


def person(name):
    family, given, middle, prefix, suffix = (*name.split("^"), "", "", "", "")[:5]
    return " ".join(filter(None, (prefix, given, middle, family))) + (f", {suffix}" if suffix else "")


def expected_of(line):
    """Name, text, number, meaning of a line of dsrdump, as they are to be found, one behind the other."""
    match = LINE.fullmatch(line)
    if match is None:  # by reference
        return [re.fullmatch(r" *<[a-z ]+ ([0-9.]+)>", line)[1]]
    value, kind = match["value"], match["type"]
    plain = value[1:-1].replace("\\r", "\r").replace("\\n", "\n")
    found = {
        "TEXT": lambda: [plain],
        "UIDREF": lambda: [plain],
        "NUM": lambda: number(*UNIT.fullmatch(value).groups()),
        "CODE": lambda: [CODED.fullmatch(value)[3], *CODED.fullmatch(value).groups()[:2]],
        "DATE": lambda: [date(plain)],
        "TIME": lambda: [time(plain)],
        "DATETIME": lambda: [date(plain)],
        "PNAME": lambda: [person(plain)],
        "SCOORD": lambda: re.findall(r"[A-Z]+|[0-9.]+", value),
        "SCOORD3D": lambda: re.findall(r"[A-Z]+|[0-9.]+", value),
        "TCOORD": lambda: re.findall(r"[A-Z]+|[0-9.]+", value),
    }.get(kind, list)()
    return [words(one) for one in (match["name"] or "", *found) if one]


def assert_all_is_there(path, page, plain):
    lines = dumped(path)
    assert len(lines) == page.count('id="item-1')
    for form in (Page(page[page.index("<body>") :].removesuffix("</html>\n")).text, words(plain)):
        at = 0
        for line in lines:
            for token in expected_of(line):
                found = form.find(token, at)
                assert found >= 0, (line, token, form[at : at + 200])
                at = found + len(token)


GIVEN = [
    SAMPLES / "ct_abdomen_weissmueller" / "report" / "report.dcm",
    *(get_testdata_file(name) for name in ("test-SR.dcm", "reportsi.dcm", "reportsi_with_empty_number_tags.dcm")),
]


@pytest.mark.needs("dsrdump")
@pytest.mark.parametrize("path", GIVEN, ids=lambda path: str(path).rsplit("/", 1)[1])
def test_all_that_dsrdump_reads_is_in_both_forms_in_the_same_order(path):
    assert_all_is_there(path, *forms(dcmread(path)))


@pytest.mark.needs("dsrdump")
@pytest.mark.parametrize("seed", range(25))
def test_all_of_a_random_report_is_in_both_forms_in_the_same_order(tmp_path, seed):
    made = RandomReports(seed).document()
    path = tmp_path / "report.dcm"
    path.write_bytes(part10(made))
    assert_all_is_there(path, *forms(dcmread(path)))


# What dsr2html says of its own, not of the report.
ITS_WORDS = {
    *("Annex", "Footnote", "by-reference", "observed:", "Content", "Item", "Concept", "Modifier", "Observation"),
    *("Context", "Inferred", "from", "Properties", "Acquisition", "Selected", "Image", "image", "with", "presentation"),
    *("state", "Composite", "Waveform", "This", "page", "generated", "a", "DICOM", "Structured", "Reporting", "by"),
    *("document", "OFFIS", "DCMTK", "was"),
}


@pytest.mark.needs("dsr2html")
@pytest.mark.parametrize("path", GIVEN[:2], ids=lambda path: str(path).rsplit("/", 1)[1])
def test_every_word_that_dsr2html_shows_is_in_both_forms(path):
    run = subprocess.run(["dsr2html", "-q", "+U8", path], capture_output=True, check=True, timeout=30)
    shown = re.sub(r"<[^>]*>", " ", run.stdout.decode("utf-8").partition("<h1>")[2].partition("<hr>")[0])
    shown = shown.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"').replace("&amp;", "&")
    page, plain = forms(dcmread(path))
    for form in (Page(page).text, plain):
        mine = form.casefold()
        wanted = {word.strip("()[],:=") for word in shown.split()} - ITS_WORDS
        missed = {word for word in wanted if word.casefold() not in mine}
        assert {word for word in missed if not re.fullmatch(r"[0-9]+|\w*Storage", word)} == set()


ALLOWED = {
    *("html", "head", "meta", "title", "style", "body", "header", "main", "h1", "h2", "h3", "h4", "h5", "h6"),
    *("dl", "dt", "dd", "ul", "li", "p", "span", "em", "a"),
}


def assert_harmless(page, plain):
    read = Page(page)
    assert {tag for tag, _ in read.elements} <= ALLOWED
    names = {name for _, attributes in read.elements for name in attributes}
    assert names <= {"lang", "charset", "name", "content", "class", "id", "dir", "href"}
    links = [attributes["href"] for _, attributes in read.elements if "href" in attributes]
    assert all(link.startswith(("#item-1", "https://pacs/dicomweb/studies/")) for link in links)
    assert not re.search(r"[\0\x1b]", page + plain)


def everything():
    """Metadata of a report with a value of every kind, and of everything that is said of the whole."""
    observer = item(
        VerificationDateTime="20240101",
        VerifyingObserverName="Roe^Max",
        VerifyingOrganization="Clinic",
        VerifyingObserverIdentificationCodeSequence=[code("MR")],
    )
    table = item(
        TableRowDefinitionSequence=[item(TableRowNumber=1, ConceptNameCodeSequence=[code("Row")])],
        CellValuesSequence=[item(TableRowNumber=1, TableColumnNumber=1, SelectorUTValue="cell")],
    )
    frames = reference(ReferencedFrameNumber=[1, 2], ReferencedSOPSequence=reference("1.7"))
    by_reference = item(RelationshipType="INFERRED FROM", ReferencedContentItemIdentifier=[1, 1])
    language = content("CODE", relationship="HAS CONCEPT MOD", ConceptCodeSequence=[code("German", "de", "RFC5646")])
    language.ConceptNameCodeSequence = [code("Language", "121049", "DCM")]
    children = [content("TABLE", "Table", TabulatedValuesSequence=[table]), by_reference, language]
    children += [content("IMAGE", "Frames", ReferencedSOPSequence=frames, ObservationDateTime="20240101")]
    children += [
        content("NUM", "Qualified", NumericValueQualifierCodeSequence=[code("Estimated")]),
        container("Sentence", text("A", "b"), continuity="CONTINUOUS"),
        *RandomReports(0).of_each_kind(),
    ]
    told = {"CompletionFlagDescription": "Done", "StudyDescription": "CT", "Manufacturer": "Works"}
    whole = document(*children, VerifyingObserverSequence=[observer], VerificationFlag="VERIFIED", **told)
    return metadata(whole)


def leaves(json):
    """Places of all values, and of what says how they are written."""
    for key, value in list(json.items() if isinstance(json, dict) else enumerate(json)):
        if isinstance(value, (dict, list)):
            yield from leaves(value)
        else:
            yield json, key, value


@pytest.mark.parametrize("form", [HTML, PLAIN])
def test_no_value_becomes_markup_wherever_it_stands(form):
    json = everything()
    shown = 0
    for place, key, value in list(leaves(json)):
        place[key] = HOSTILE
        report = Report.of(json, lambda scope: resource_url("https://pacs/dicomweb", scope))
        written = write(report, form).decode("utf-8")
        assert_harmless(*((written, "") if form == HTML else ("", written)))
        shown += "alert(1)" in written
        place[key] = value
    assert shown > 100


def test_all_values_at_once_become_no_markup():
    json = everything()
    for place, key, _ in list(leaves(json)):
        if key != "vr":
            place[key] = HOSTILE
    report = Report.of(json, lambda scope: resource_url("https://pacs/dicomweb", scope))
    assert_harmless(write(report, HTML).decode("utf-8"), write(report, PLAIN).decode("utf-8"))


def test_a_page_has_a_title_headings_and_lists():
    page, plain = forms(
        document(container("Findings", text("Finding", "one\r\ntwo"), continuity="CONTINUOUS"), title="CT")
    )
    assert page.startswith('<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">')
    assert "<title>CT</title>" in page
    assert "<h1>CT</h1>" in page
    assert '<li id="item-1.1"><h2>Findings</h2>\n<ul class="continuous">' in page
    assert "one\ntwo" in page
    assert plain.startswith("CT\n==\n\nKind: Comprehensive 3D SR Storage\nPatient: Jane Doe\n")
    assert plain.endswith("\nFindings:\n  Finding: one\n    two\n")


def test_headings_go_no_deeper_than_there_are():
    made = text("A", "b")
    for depth in range(8):
        made = container(f"Part {depth}", made)
    page, _ = forms(document(made))
    levels = [tag for tag, _ in Page(page).elements if re.fullmatch(r"h[0-9]", tag)]
    assert levels == ["h1", "h2", "h3", "h4", "h5", "h6", "h6", "h6", "h6"]


def test_a_missing_value_is_marked_in_both_forms():
    page, plain = forms(document(content("TEXT", "Finding")))
    assert '<em class="missing">[text missing]</em>' in page
    assert "Finding: [text missing]\n" in plain


@pytest.mark.parametrize("media_type", [HTML, PLAIN])
def test_a_form_beyond_the_limit_of_bytes_is_refused(monkeypatch, media_type):
    report = Report.of(metadata(document(text("A", "\n" * 4000))), lambda _: "")
    size_bytes = len(write(report, media_type))
    monkeypatch.setattr(report_forms, "MAXIMUM_BYTES", size_bytes)
    assert len(write(report, media_type)) == size_bytes
    monkeypatch.setattr(report_forms, "MAXIMUM_BYTES", size_bytes - 1)
    with pytest.raises(TooLarge):
        write(report, media_type)


def test_the_same_report_gives_the_same_bytes():
    assert forms(RandomReports(1).document()) == forms(RandomReports(1).document())

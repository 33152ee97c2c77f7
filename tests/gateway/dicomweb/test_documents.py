"""Reports and encapsulated documents of a running application: what comes, and that nothing of it can run."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from pydicom.uid import MPEG2MPML, ExplicitVRLittleEndian

from gateway.dicomweb import documents
from gateway.dicomweb.documents import ENCAPSULATED, takes_utf_8
from gateway.pixels.pool import RenderPool
from storage.model import Source
from tests.fix_application import Here
from tests.reports import IMAGE, IMAGE_SERIES, IMAGE_STUDY, code, content, document, item, part10, reference, text

CHROME = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8"
CDA, PDF, STL = (f"1.2.840.10008.5.1.4.1.1.104.{number}" for number in (2, 1, 3))
HTML, PLAIN = "text/html; charset=utf-8", "text/plain; charset=utf-8"


class Kept(Here):
    """An application over an archive, and a way to put instances into that."""

    def __init__(self, archive, pool):
        super().__init__(archive, pool)
        self._archive = archive

    def keep(self, data_set, *, syntax=ExplicitVRLittleEndian):
        """Store a Data Set; the path of the instance is returned."""
        with self._archive.spool() as spool:
            spool.write(part10(data_set, syntax))
            scope = self._archive.store(spool, Source("test")).instance.scope
        uids = (scope.study_instance_uid, scope.series_instance_uid, scope.sop_instance_uid)
        return "/dicomweb" + "".join(map("/{}/{}".format, ("studies", "series", "instances"), uids))

    def uri(self, url, **parameters):
        """The same instance by WADO-URI."""
        _, _, _, study, _, series, _, sop = url.split("/")
        query = {"requestType": "WADO", "studyUID": study, "seriesUID": series, "objectUID": sop, **parameters}
        return self.get("/wado?" + "&".join(f"{name}={value}" for name, value in query.items()))


@pytest.fixture
def kept(archive):
    with RenderPool(1) as pool:
        yield Kept(archive, pool)


@pytest.fixture
def report(kept):
    image = content("IMAGE", ReferencedSOPSequence=reference())
    return kept.keep(document(text("Finding", "Läsion <b>", image), title="CT Report"))


def encapsulated(raw, media_type, sop_class=CDA, **attributes):
    whole = document(
        SOPClassUID=sop_class,
        ValueType=None,
        ContentSequence=None,
        CurrentRequestedProcedureEvidenceSequence=None,
        MIMETypeOfEncapsulatedDocument=media_type,
        EncapsulatedDocument=raw,
        **attributes,
    )
    whole["EncapsulatedDocument"].VR = "OB"
    return whole


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("*/*", HTML),
        (CHROME, HTML),
        ("text/*", HTML),
        ("text/html", HTML),
        ("text/plain", PLAIN),
        ("text/plain, text/html;q=0.5", PLAIN),
        ("image/jpeg, text/plain;q=0.1", PLAIN),
    ],
)
def test_a_report_is_html_unless_plain_text_is_asked_for(kept, report, accept, expected):
    answer = kept.get(f"{report}/rendered", Accept=accept)
    assert (answer.status_code, answer.headers["content-type"]) == (200, expected)
    assert ("Läsion &lt;b&gt;" if expected == HTML else "Finding: Läsion <b>\n") in answer.text


def test_the_query_may_name_the_form(kept, report):
    assert kept.get(f"{report}/rendered?accept=text/plain", Accept=CHROME).headers["content-type"] == PLAIN


@pytest.mark.parametrize("accept", ["image/jpeg", "application/pdf", "text/xml", "text/html;q=0, text/plain;q=0"])
def test_what_a_report_cannot_be_is_refused_with_what_it_can(kept, report, accept):
    answer = kept.get(f"{report}/rendered", Accept=accept)
    assert answer.status_code == 406
    assert "text/html, text/plain" in answer.json()["reason"]


def test_a_report_cannot_run_and_is_not_kept_by_others(kept, report):
    headers = kept.get(f"{report}/rendered").headers
    policy = dict(part.strip().partition(" ")[::2] for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["sandbox"] == "allow-same-origin"
    assert "script-src" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "private, no-cache"
    assert headers["vary"] == "Accept"


def test_a_report_that_the_client_has_is_not_written_again(kept, report):
    etag = kept.get(f"{report}/rendered").headers["etag"]
    again = kept.get(f"{report}/rendered", **{"If-None-Match": etag})
    assert (again.status_code, again.content) == (304, b"")
    assert kept.get(f"{report}/rendered", Accept="text/plain").headers["etag"] != etag
    assert kept.get(report.replace("/dicomweb", "/dicom-web") + "/rendered").headers["etag"] != etag


def test_a_document_that_is_text_in_its_data_set_cannot_be_shown(kept):
    odd = encapsulated(b"", "text/xml")
    odd["EncapsulatedDocument"].VR = "UT"
    odd.EncapsulatedDocument = "<ClinicalDocument/>"
    answer = kept.get(f"{kept.keep(odd)}/rendered")
    assert answer.status_code == 422
    assert answer.json()["tag"] == "00420011"


@pytest.mark.parametrize("root", ["/dicomweb", "/dicom-web"])
def test_its_links_lead_to_rendered_images_below_the_root_that_was_used(kept, report, root):
    page = kept.get(report.replace("/dicomweb", root) + "/rendered").text
    image = f"{root}/studies/{IMAGE_STUDY}/series/{IMAGE_SERIES}/instances/{IMAGE}/rendered"
    assert re.search(rf'<a href="http://127\.0\.0\.1:\w+{re.escape(image)}">CT Image Storage</a>', page)


def test_a_study_and_a_series_of_reports_are_their_first_one(kept, report):
    study, series = report.split("/series/")[0], report.split("/instances/")[0]
    assert kept.get(f"{study}/rendered").content == kept.get(f"{report}/rendered").content
    assert kept.get(f"{series}/rendered").content == kept.get(f"{report}/rendered").content


def test_a_report_has_no_frames_to_show(kept, report):
    assert kept.get(f"{report}/frames/1/rendered").status_code == 406


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("charset=utf-8", 200),
        ("charset=latin-1", 400),
        ("viewport=x", 400),
        ("viewport=9,9", 200),
        ("quality=1&quality=2", 400),
    ],
)
def test_the_parameters_of_a_rendered_resource_are_checked_for_reports_too(kept, report, query, status):
    assert kept.get(f"{report}/rendered?{query}").status_code == status


def test_another_character_set_is_not_acceptable(kept, report):
    assert kept.get(f"{report}/rendered", **{"Accept-Charset": "iso-8859-1, utf-8;q=0.7"}).status_code == 200
    assert kept.get(f"{report}/rendered", **{"Accept-Charset": "iso-8859-1"}).status_code == 406


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], True),
        (["utf-8"], True),
        (["UTF8"], True),
        (["*"], True),
        (["latin-1", "utf-8; q=0.1"], True),
        (["latin-1,*;q=0.1"], True),
        (["latin-1"], False),
        (["utf-8;q=0"], False),
        (["utf-8;q=0.000, *"], False),
        (["*;q=0.0"], False),
        (["utf-8;q=x"], True),
        ([" , "], True),
    ],
)
def test_accept_charset_is_read(lines, expected):
    assert takes_utf_8(lines) is expected


@pytest.mark.parametrize("character_set", ["ISO_IR 100", "ISO_IR 192"])
def test_a_text_that_is_too_long_for_metadata_is_shown_whole(kept, character_set):
    long_text = "Größe unverändert. " * 8000
    url = kept.keep(document(text("Finding", long_text), SpecificCharacterSet=character_set))
    assert long_text.strip() in kept.get(f"{url}/rendered").text
    assert long_text.strip() in kept.get(f"{url}/rendered", Accept="text/plain").text


def test_a_long_text_is_read_in_the_character_set_of_its_item(kept):
    long_text = "Ж" * 70_000
    inner = text("Finding", long_text)
    inner.SpecificCharacterSet = "ISO_IR 144"
    url = kept.keep(document(inner, SpecificCharacterSet="ISO_IR 100"))
    assert long_text in kept.get(f"{url}/rendered").text


def test_texts_beyond_the_limit_are_said_to_be_too_large(kept, monkeypatch):
    monkeypatch.setattr(documents, "_MAXIMUM_LONG_TEXT_BYTES", 100_000)
    url = kept.keep(document(text("First", "a" * 70_000), text("Second", "b" * 70_000)))
    page = kept.get(f"{url}/rendered").text
    assert "a" * 70_000 in page
    assert "[text too large to be shown]" in page


def test_a_report_beyond_a_limit_is_too_large(kept, monkeypatch):
    monkeypatch.setattr("gateway.dicomweb.report.MAXIMUM_ITEMS", 3)
    url = kept.keep(document(*(text("A", "b") for _ in range(3))))
    answer = kept.get(f"{url}/rendered")
    assert (answer.status_code, "more content items" in answer.json()["reason"]) == (413, True)


DOCUMENT = b'<?xml version="1.0" encoding="ISO-8859-1"?><ClinicalDocument>\xe4</ClinicalDocument>'


@pytest.mark.parametrize("size_bytes", [len(DOCUMENT), 9001], ids=["in metadata", "in the object"])
@pytest.mark.parametrize("is_length_told", [True, False])
@pytest.mark.parametrize("stored", ["text/XML", "text/xml; charset=iso-8859-1"])
def test_a_clinical_document_is_sent_as_it_is_and_cannot_run(kept, size_bytes, is_length_told, stored):
    raw = DOCUMENT + b" " * (size_bytes - len(DOCUMENT))
    told = {"EncapsulatedDocumentLength": len(raw)} if is_length_told else {}
    url = kept.keep(encapsulated(raw + b"\0" * (len(raw) % 2), stored, **told))
    answer = kept.get(f"{url}/rendered", Accept=CHROME)
    assert (answer.status_code, answer.content) == (200, raw)
    assert answer.headers["content-type"] == "text/xml"
    assert answer.headers["content-length"] == str(len(raw))
    assert answer.headers["content-security-policy"] == "sandbox; default-src 'none'"
    assert answer.headers["x-content-type-options"] == "nosniff"
    again = kept.get(f"{url}/rendered", **{"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("told", [{}, {"EncapsulatedDocumentLength": 10}, {"EncapsulatedDocumentLength": 12}])
def test_only_one_byte_is_ever_taken_for_padding(kept, told):
    url = kept.keep(encapsulated(b"0123456789\0\0", "text/plain", **told))
    expected = b"0123456789\0\0" if told else b"0123456789\0"
    assert kept.get(f"{url}/rendered").content == expected


@pytest.mark.parametrize("media_type", list(ENCAPSULATED))
def test_each_safe_kind_of_document_is_shown_or_saved(kept, media_type):
    url = kept.keep(encapsulated(b"0123456789", media_type, STL))
    answer = kept.get(f"{url}/rendered")
    assert (answer.status_code, answer.content) == (200, b"0123456789")
    assert answer.headers["content-type"] == media_type
    is_read = media_type in ("application/pdf", "text/xml", "text/plain")
    assert answer.headers["content-disposition"] == ("inline" if is_read else "attachment")
    assert ("sandbox" in answer.headers.get("content-security-policy", "")) == (media_type != "application/pdf")
    assert kept.get(f"{url}/rendered", Accept=media_type).status_code == 200
    refused = kept.get(f"{url}/rendered", Accept="image/jpeg")
    assert (refused.status_code, media_type in refused.json()["reason"]) == (406, True)


@pytest.mark.parametrize("media_type", ["text/html", "image/svg+xml", "application/javascript", "", "<script>"])
def test_a_document_of_another_kind_is_refused_with_those_that_are_not(kept, media_type):
    url = kept.keep(encapsulated(b"<script>alert(1)</script>!", media_type))
    answer = kept.get(f"{url}/rendered")
    assert answer.status_code == 406
    assert "application/pdf, text/xml, text/plain" in answer.json()["reason"]
    assert media_type == "" or media_type not in answer.json()["reason"]


def test_an_instance_without_pixels_and_text_is_no_document(kept):
    url = kept.keep(encapsulated(b"", "application/pdf"))
    assert kept.get(f"{url}/rendered").json()["reason"] == "The instance has no picture"


def test_by_uri_a_report_is_html_and_the_object_can_be_had(kept, report):
    page = kept.get(f"{report}/rendered")
    by_uri = kept.uri(report)
    assert (by_uri.status_code, by_uri.headers["content-type"]) == (200, HTML)
    assert by_uri.headers["content-security-policy"] == page.headers["content-security-policy"]
    assert kept.uri(report, contentType="text/html").content == by_uri.content
    assert kept.uri(report, contentType="text/plain").headers["content-type"] == PLAIN
    assert kept.uri(report, contentType="application/dicom").content[128:132] == b"DICM"
    assert kept.uri(report, contentType="image/jpeg").status_code == 406
    for name in ("rows", "frameNumber", "transferSyntax"):
        refused = kept.uri(report, **{name: "1"})
        assert (refused.status_code, name in refused.json()["reason"]) == (400, True)
    assert kept.uri(report, charset="latin-1").status_code == 406


def test_by_uri_an_encapsulated_document_is_the_object_unless_it_is_asked_for(kept):
    url = kept.keep(encapsulated(b"%PDF-1.4  ", "application/pdf", PDF))
    assert kept.uri(url).content[128:132] == b"DICM"
    assert kept.uri(url, contentType="application/pdf").content == b"%PDF-1.4  "
    assert kept.uri(url, contentType="text/xml").status_code == 406


def test_by_uri_an_unsafe_document_is_only_the_object(kept):
    url = kept.keep(encapsulated(b"<script>a</script>", "text/html"))
    assert kept.uri(url).content[128:132] == b"DICM"
    assert kept.uri(url, contentType="text/html").status_code == 406


def test_a_report_whose_encoding_is_that_of_a_video_is_neither(kept):
    url = kept.keep(document(text("A", "b")), syntax=MPEG2MPML)
    assert kept.get(f"{url}/rendered").status_code == 404
    assert kept.uri(url).status_code == 404
    assert kept.uri(url, contentType="text/html").status_code == 406


def test_a_code_in_a_language_of_its_own_is_shown_as_it_is(kept):
    url = kept.keep(document(content("CODE", "所見", ConceptCodeSequence=[code("肝臓", "10200004", "SCT")])))
    assert "肝臓 (10200004, SCT)" in kept.get(f"{url}/rendered").text


def test_broken_content_is_shown_as_missing(kept):
    url = kept.keep(document(item(RelationshipType="CONTAINS"), content("TEXT", "A")))
    page = kept.get(f"{url}/rendered").text
    for what in ("value type missing", "concept name missing", "text missing"):
        assert f'<em class="missing">[{what}]</em>' in page


def test_nothing_of_a_document_is_logged(kept, caplog, monkeypatch):
    """H29"""
    marked = document(text("CANARY", "CANARY"), title="CANARY", PatientName="CANARY", PatientID="CANARY")
    url = kept.keep(marked)
    assert "CANARY" in kept.get(f"{url}/rendered").text
    assert kept.get(f"{url}/rendered", Accept="CANARY/x").status_code == 406
    monkeypatch.setattr("gateway.dicomweb.report.MAXIMUM_ITEMS", 1)
    assert kept.get(f"{url}/rendered").status_code == 413
    other = kept.keep(encapsulated(b"CANARY", "CANARY/CANARY", SOPInstanceUID="1.2.3.4.6"))
    assert kept.get(f"{other}/rendered").status_code == 406
    assert "CANARY" not in caplog.text


def test_a_document_needs_nothing_that_draws():
    program = "import sys, gateway.dicomweb.documents; print('PIL' in sys.modules, 'numpy' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False False"

"""Every literal Accept line of the viewers, and every rule of the choice, as tables."""

from __future__ import annotations

import pytest

from gateway.dicomweb.media_types import (
    AS_STORED,
    METADATA_OFFERS,
    RENDERED_OFFERS,
    Representation,
    bulk_offers,
    frame_offers,
    instance_offers,
    negotiate,
    on_the_wire,
    parse_media_type,
)
from storage.errors import BadRequest, NotAcceptable

IMPLICIT, EXPLICIT, BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
DEFLATED, RLE = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.5"
JPEG, JPEG_LOSSLESS, JPEG_LS, JPEG_LS_NEAR, J2K, HTJ2K = (
    "1.2.840.10008.1.2.4." + last for last in ("50", "70", "80", "81", "90", "201")
)

OFFERS = {
    "study of CT and MR, native": instance_offers([EXPLICIT, IMPLICIT, BIG], is_single=False),
    "study, mixed": instance_offers([EXPLICIT, JPEG_LS], is_single=False),
    "study, JPEG-LS": instance_offers([JPEG_LS], is_single=False),
    "instance, implicit": instance_offers([IMPLICIT], is_single=True),
    "instance, JPEG-LS": instance_offers([JPEG_LS], is_single=True),
    "instance, undecodable": instance_offers([JPEG], is_single=True, converted=()),
    "metadata": METADATA_OFFERS,
    "frame, native": frame_offers(EXPLICIT, is_single=True),
    "frame, big endian": frame_offers(BIG, is_single=True),
    "frame, deflated": frame_offers(DEFLATED, is_single=True),
    "frame, JPEG-LS": frame_offers(JPEG_LS, is_single=True),
    "frame, JPEG": frame_offers(JPEG, is_single=True),
    "frame, JPEG 2000": frame_offers(J2K, is_single=True),
    "frame, undecodable": frame_offers(HTJ2K, is_single=True, converted=()),
    "frames, JPEG-LS": frame_offers(JPEG_LS, is_single=False),
    "bulk value": bulk_offers(),
    "bulk values": bulk_offers(is_single=False),
    "bulk PDF": bulk_offers("application/pdf"),
    "rendered": RENDERED_OFFERS,
}

MANY_DICOM, MANY_OCTETS = (
    'multipart/related; type="application/dicom"',
    'multipart/related; type="application/octet-stream"',
)
MANY_XML = 'multipart/related; type="application/dicom+xml"'
FIREFOX = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"
OHIF_OLD_METADATA = "application/dicom+json, multipart/related; type=application/octet-stream; transfer-syntax=*"
OHIF_FRAMES = 'multipart/related; type="application/octet-stream"; transfer-syntax="*"'
OHIF_TWO = 'multipart/related; type="image/jls"; transfer-syntax="1.2.840.10008.1.2.4.80"; transfer-syntax="*"'
OHIF_UNQUOTED_TWO = "multipart/related; type=image/jls; transfer-syntax=1.2.840.10008.1.2.4.80; transfer-syntax=*"
CORNERSTONE = "multipart/related; type=application/octet-stream; transfer-syntax=*"
WEASIS = 'multipart/related;type="application/dicom";transfer-syntax=*'
SLIM = (
    'multipart/related; type="image/jp2"; transfer-syntax=1.2.840.10008.1.2.4.90, '
    'multipart/related; type="image/jpeg"; transfer-syntax=1.2.840.10008.1.2.4.50, '
    'multipart/related; type="application/octet-stream"; transfer-syntax=*'
)

VIEWERS = [
    ("OHIF search and metadata", "application/dicom+json", "metadata", "application/dicom+json"),
    ("OHIF metadata, older", OHIF_OLD_METADATA, "metadata", "application/dicom+json"),
    ("dicomweb-client metadata", "application/dicom+json, application/json", "metadata", "application/dicom+json"),
    ("a script", "application/json", "metadata", "application/json"),
    ("dcm4che, XML", 'multipart/related;type="application/dicom+xml"', "metadata", MANY_XML),
    ("OHIF frame", OHIF_FRAMES, "frame, native", f"{MANY_OCTETS}; transfer-syntax={EXPLICIT}"),
    ("OHIF frame", OHIF_FRAMES, "frame, JPEG-LS", f'multipart/related; type="image/jls"; transfer-syntax={JPEG_LS}'),
    ("OHIF frame", OHIF_FRAMES, "frame, JPEG", f'multipart/related; type="image/jpeg"; transfer-syntax={JPEG}'),
    ("OHIF two", OHIF_TWO, "frame, JPEG-LS", f'multipart/related; type="image/jls"; transfer-syntax={JPEG_LS}'),
    ("OHIF two", OHIF_TWO, "frame, native", f"{MANY_OCTETS}; transfer-syntax={EXPLICIT}"),
    ("OHIF two", OHIF_TWO, "frame, JPEG", f'multipart/related; type="image/jpeg"; transfer-syntax={JPEG}'),
    ("OHIF two, unquoted", OHIF_UNQUOTED_TWO, "frame, native", f"{MANY_OCTETS}; transfer-syntax={EXPLICIT}"),
    ("OHIF bulk data", OHIF_FRAMES, "bulk value", f"{MANY_OCTETS}; transfer-syntax={EXPLICIT}"),
    ("OHIF bulk data, none", "", "bulk value", f"{MANY_OCTETS}; transfer-syntax={EXPLICIT}"),
    ("OHIF bulk data, fetch", "*/*", "bulk value", f"application/octet-stream; transfer-syntax={EXPLICIT}"),
    ("OHIF thumbnail", "image/jpeg", "rendered", "image/jpeg"),
    ("OHIF in an <iframe>", FIREFOX, "rendered", "image/jpeg"),
    ("OHIF PDF in an <iframe>", FIREFOX, "bulk PDF", "application/pdf"),
    ("Cornerstone", CORNERSTONE, "frame, native", f"{MANY_OCTETS}; transfer-syntax={EXPLICIT}"),
    ("Cornerstone", CORNERSTONE, "frame, JPEG 2000", f'multipart/related; type="image/jp2"; transfer-syntax={J2K}'),
    ("Slim tile", SLIM, "frame, JPEG 2000", f'multipart/related; type="image/jp2"; transfer-syntax={J2K}'),
    ("Slim tile", SLIM, "frame, JPEG", f'multipart/related; type="image/jpeg"; transfer-syntax={JPEG}'),
    ("Slim tile", SLIM, "frame, native", f"{MANY_OCTETS}; transfer-syntax={EXPLICIT}"),
    ("Slim rendered", "image/png", "rendered", "image/png"),
    ("Slim instance", WEASIS, "instance, JPEG-LS", f"{MANY_DICOM}; transfer-syntax={JPEG_LS}"),
    ("VolView series", MANY_DICOM, "study, mixed", f"{MANY_DICOM}; transfer-syntax={EXPLICIT}"),
    ("VolView thumbnail", "image/jpeg", "rendered", "image/jpeg"),
    ("Weasis series", WEASIS, "study, mixed", f"{MANY_DICOM}; transfer-syntax=*"),
    ("Weasis instance", WEASIS, "instance, implicit", f"{MANY_DICOM}; transfer-syntax={EXPLICIT}"),
    ("curl", "*/*", "metadata", "application/dicom+json"),
    ("Java", "text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2", "metadata", "application/dicom+json"),
]


@pytest.mark.parametrize(("client", "accept", "resource", "expected"), VIEWERS)
def test_each_viewer_gets_what_it_asks_for(client, accept, resource, expected):
    assert str(negotiate([accept], OFFERS[resource])) == expected


EXPLICIT_DICOM, JLS_DICOM = f"{MANY_DICOM}; transfer-syntax={EXPLICIT}", f"{MANY_DICOM}; transfer-syntax={JPEG_LS}"
ONE_DICOM, ONE_JLS_DICOM = (f"application/dicom; transfer-syntax={uid}" for uid in (EXPLICIT, JPEG_LS))
OCTETS, ONE_OCTETS = (
    f"{MANY_OCTETS}; transfer-syntax={EXPLICIT}",
    f"application/octet-stream; transfer-syntax={EXPLICIT}",
)
MANY_JPEG = f'multipart/related; type="image/jpeg"; transfer-syntax={JPEG}'
MANY_JLS = f'multipart/related; type="image/jls"; transfer-syntax={JPEG_LS}'
NONE = None

RULES = [
    # G1: nothing, or only empty lines, is the default; several lines are one list
    ("G1", [], "study, JPEG-LS", EXPLICIT_DICOM),
    ("G1", ["", "  "], "study, JPEG-LS", EXPLICIT_DICOM),
    ("G1", ["application/pdf", "image/png"], "rendered", "image/png"),
    # G2: quotes, white space and case make no difference; what is quoted is not split
    ("G2", ["multipart/related;type=application/dicom"], "study, JPEG-LS", EXPLICIT_DICOM),
    ("G2", ['Multipart/Related ; TYPE = "Application/DICOM"'], "study, JPEG-LS", EXPLICIT_DICOM),
    ("G2", [f'multipart/related; type="application/dicom"; Transfer-Syntax="{JPEG_LS}"'], "study, JPEG-LS", JLS_DICOM),
    ("G2", ['application/x; note="a, image/png; q=1", image/gif'], "rendered", "image/gif"),
    ("G2", [r'application/x; note="a \" , image/png", image/gif'], "rendered", "image/gif"),
    ("G2", ['image/gif; note="never closed, image/png'], "rendered", "image/gif"),
    ("G2", ["application/dicom json"], "metadata", "application/dicom+json"),
    # G3: quality
    ("G3", ["image/jpeg;q=0.1, image/png;q=0.555, image/gif;q=0.5"], "rendered", "image/png"),
    ("G3", ["image/jpeg;q=0, image/*"], "rendered", "image/png"),
    ("G3", ["image/jpeg;q=0"], "rendered", NONE),
    ("G3", ["image/jpeg;q=0.5, image/png;q=high"], "rendered", "image/png"),
    ("G3", ["image/jpeg;q=0.5, image/png;q=0.1234"], "rendered", "image/png"),
    ("G3", ["image/jpeg;q=0.0, image/png;q=0.000, */*"], "rendered", "image/gif"),
    ("G3", ["*/*;q=0, image/png;q=0.1"], "rendered", "image/png"),
    ("G3", ["*/*;q=0"], "rendered", NONE),
    # G4: the most specific, then the first; a lower quality of a more specific range holds for its own
    ("G4", ["*/*, image/*, image/gif"], "rendered", "image/gif"),
    ("G4", ["image/png, image/gif"], "rendered", "image/png"),
    ("G4", ["image/gif, image/png"], "rendered", "image/gif"),
    ("G4", ["application/dicom, " + MANY_DICOM], "instance, JPEG-LS", EXPLICIT_DICOM),
    ("G4", ["image/*, image/jpeg;q=0.1, image/png;q=0.5"], "rendered", "image/gif"),
    # G5: wildcards
    ("G5", ["multipart/related"], "study, JPEG-LS", EXPLICIT_DICOM),
    ("G5", ["multipart/*"], "frame, JPEG-LS", OCTETS),
    ("G5", ["*/*"], "instance, JPEG-LS", EXPLICIT_DICOM),
    ("G5", ["*/*"], "frame, JPEG-LS", OCTETS),
    ("G5", ["image/*"], "rendered", "image/jpeg"),
    ("G5", ["text/*"], "rendered", NONE),
    ("G5", ["application/*"], "metadata", "application/dicom+json"),
    ("G5", ["multipart/related"], "metadata", "application/dicom+json"),
    ("G5", ["multipart/related; type=application/*"], "metadata", MANY_XML),
    ("G10", ["application/dicom+xml"], "metadata", NONE),
    ("G10", ["application/dicom+xml, application/json;q=0.1"], "metadata", "application/json"),
    ("G4", ['multipart/related; type="application/dicom xml", */*;q=0.9'], "metadata", MANY_XML),
    ("G5", ["application/*"], "instance, implicit", ONE_DICOM),
    ("G5", ["application/*"], "study, mixed", NONE),
    ("G5", ['multipart/related; type="image/*"; transfer-syntax=*'], "frames, JPEG-LS", MANY_JLS),
    ("G5", ['multipart/related; type="image/"; transfer-syntax=*'], "frames, JPEG-LS", MANY_JLS),
    ("G5", ["multipart/related; transfer-syntax=*"], "study, JPEG-LS", JLS_DICOM),
    # G6: * is as stored, none is Explicit VR Little Endian or the type's own, else as stored
    ("G6", [MANY_DICOM + "; transfer-syntax=*"], "study, JPEG-LS", JLS_DICOM),
    ("G6", [MANY_DICOM + f"; transfer-syntax={JPEG_LS}"], "study, JPEG-LS", JLS_DICOM),
    ("G6", [MANY_DICOM], "instance, undecodable", f"{MANY_DICOM}; transfer-syntax={JPEG}"),
    ("G6", [], "instance, undecodable", f"{MANY_DICOM}; transfer-syntax={JPEG}"),
    ("G6", ['multipart/related; type="image/jls"'], "frame, JPEG-LS", MANY_JLS),
    ("G6", ["image/jpeg"], "frame, JPEG", f"image/jpeg; transfer-syntax={JPEG}"),
    ("G6", [MANY_OCTETS], "frame, undecodable", NONE),
    # G7: an impossible transfer syntax drops the candidate
    ("G7", [MANY_DICOM + "; transfer-syntax=1.2.3"], "study, JPEG-LS", NONE),
    ("G7", [MANY_DICOM + "; transfer-syntax=1.2.3, application/dicom; q=0.5"], "instance, JPEG-LS", ONE_DICOM),
    ("G7", [MANY_DICOM + f"; transfer-syntax={JPEG_LS}"], "study, mixed", NONE),
    # G8: never Implicit VR Little Endian nor Big Endian
    ("G8", [MANY_DICOM + f"; transfer-syntax={IMPLICIT}"], "instance, implicit", NONE),
    ("G8", [MANY_DICOM + f"; transfer-syntax={BIG}"], "study of CT and MR, native", NONE),
    ("G8", [MANY_DICOM + "; transfer-syntax=*"], "study of CT and MR, native", EXPLICIT_DICOM),
    ("G8", [CORNERSTONE], "frame, big endian", OCTETS),
    ("G8", [CORNERSTONE], "frame, deflated", OCTETS),
    # G9
    ("G9", ["application/pdf"], "metadata", NONE),
    ("G9", ["nonsense, also/, /nonsense, */png"], "metadata", NONE),
    # G10: single parts only of single items
    ("G10", ["application/dicom"], "study, JPEG-LS", NONE),
    ("G10", ["application/dicom, " + MANY_DICOM], "study, JPEG-LS", EXPLICIT_DICOM),
    ("G10", ["application/dicom"], "instance, JPEG-LS", ONE_DICOM),
    ("G10", ["application/dicom; transfer-syntax=*"], "instance, JPEG-LS", ONE_JLS_DICOM),
    ("G10", ["application/octet-stream"], "frame, JPEG-LS", ONE_OCTETS),
    ("G10", ["application/octet-stream; transfer-syntax=*"], "frame, JPEG-LS", f"image/jls; transfer-syntax={JPEG_LS}"),
    ("G10", ["application/octet-stream"], "frames, JPEG-LS", NONE),
    ("G10", ["application/octet-stream"], "bulk values", NONE),
    ("G10", ["application/octet-stream"], "bulk PDF", ONE_OCTETS),
    # G12: a wrong pair drops only itself
    ("G12", [f'multipart/related; type="image/jls"; transfer-syntax={JPEG}'], "frame, JPEG-LS", NONE),
    ("G12", [f'multipart/related; type="image/jls"; transfer-syntax={JPEG}, {OHIF_FRAMES}'], "frame, JPEG", MANY_JPEG),
    ("G12", [f'multipart/related; type="image/jls"; transfer-syntax="{JPEG}", */*;q=0.1'], "frame, JPEG-LS", OCTETS),
    ("G12", ['multipart/related; type="image/jls"; transfer-syntax=*'], "frame, JPEG", NONE),
    ("G12", [MANY_OCTETS + f"; transfer-syntax={JPEG_LS}"], "frame, JPEG-LS", NONE),
    # V2: two transfer syntaxes are alternatives, * last wherever it stands
    ("V2", [f"{MANY_DICOM}; transfer-syntax=*; transfer-syntax={EXPLICIT}"], "study, JPEG-LS", EXPLICIT_DICOM),
    ("V2", [f"{MANY_DICOM}; transfer-syntax={JPEG}; transfer-syntax={JPEG_LS}"], "study, JPEG-LS", JLS_DICOM),
    ("V2", [f"{MANY_DICOM}; transfer-syntax={JPEG}; transfer-syntax=*"], "study, JPEG-LS", JLS_DICOM),
    # W6: browsers get one bulk value as it is
    ("W6", ["*/*"], "bulk values", OCTETS),
    ("W6", ["application/pdf"], "bulk PDF", "application/pdf"),
    ("W6", ['multipart/related; type="application/pdf"'], "bulk PDF", 'multipart/related; type="application/pdf"'),
]


@pytest.mark.parametrize(("rule", "accepts", "resource", "expected"), RULES)
def test_each_rule_decides(rule, accepts, resource, expected):
    if expected is None:
        with pytest.raises(NotAcceptable):
            negotiate(accepts, OFFERS[resource])
    else:
        assert str(negotiate(accepts, OFFERS[resource])) == expected


QUERY_SYNTAX = [
    ([], "*", JLS_DICOM),
    ([], JPEG_LS, JLS_DICOM),
    (["*/*"], "*", JLS_DICOM),
    (["application/dicom"], "*", ONE_JLS_DICOM),
    ([f"{MANY_DICOM}; transfer-syntax={EXPLICIT}"], "*", EXPLICIT_DICOM),
    ([], IMPLICIT, None),
]


@pytest.mark.parametrize(("accepts", "syntax", "expected"), QUERY_SYNTAX)
def test_transfer_syntax_of_the_query_holds_for_ranges_that_name_none(accepts, syntax, expected):
    offers = OFFERS["instance, JPEG-LS"]
    if expected is None:
        with pytest.raises(NotAcceptable):
            negotiate(accepts, offers, transfer_syntax_uid=syntax)
    else:
        assert str(negotiate(accepts, offers, transfer_syntax_uid=syntax)) == expected


def test_a_refusal_lists_what_could_have_been_had_and_nothing_that_was_sent():
    with pytest.raises(NotAcceptable) as refused:
        negotiate(["application/secret"], OFFERS["instance, implicit"])
    assert f"{EXPLICIT_DICOM}, {ONE_DICOM}" in refused.value.reason
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("uid", [IMPLICIT, BIG])
def test_a_transfer_syntax_that_is_never_sent_cannot_be_offered(uid):
    with pytest.raises(ValueError, match="never sent"):
        Representation("application/dicom", uid)


def test_as_stored_leaves_every_other_transfer_syntax_alone():
    assert [on_the_wire(uid) for uid in (IMPLICIT, BIG, DEFLATED, RLE)] == [EXPLICIT, EXPLICIT, DEFLATED, RLE]


def test_a_part_of_a_mixed_study_does_not_claim_one_transfer_syntax():
    assert Representation("application/dicom", AS_STORED, is_multipart=True).content_type == "application/dicom"


@pytest.mark.parametrize("accept", ["a/b," * 65, "a/" + "b" * 8192])
def test_accept_has_limits(accept):
    with pytest.raises(BadRequest):
        negotiate([accept], METADATA_OFFERS)


def test_parameters_are_read_whatever_their_quotes_and_order():
    text = r'Multipart/Related ; boundary="a;b\"c" ;; TYPE=application/dicom; flag'
    expected = (("boundary", 'a;b"c'), ("type", "application/dicom"), ("flag", ""))
    assert parse_media_type(text) == ("multipart/related", expected)
    assert parse_media_type("") == ("", ())

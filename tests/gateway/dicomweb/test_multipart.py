"""The multipart parser under every chunking, with each deviation that clients show and each limit."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dicomweb import multipart
from gateway.dicomweb.multipart import (
    Mark,
    MultipartParser,
    PartBegins,
    body_ends,
    body_type,
    boundary_of,
    new_boundary,
    part,
    part_begins,
)
from storage.errors import BadRequest, TooLarge, UnsupportedMediaType

BOUNDARY = "4f1c"
DASHED = b"--4f1c"


def parsed(chunks, boundary=BOUNDARY):
    """The parts of a body as (headers, data); the order of events is checked on the way."""
    parser = MultipartParser(boundary)
    parts, inside = [], False
    for chunk in chunks:
        for event in parser.feed(chunk):
            if isinstance(event, PartBegins):
                assert not inside
                inside = True
                parts.append((dict(event.headers), b""))
            elif isinstance(event, memoryview):
                assert inside
                parts[-1] = (parts[-1][0], parts[-1][1] + bytes(event))
            elif event is Mark.PART_ENDS:
                assert inside
                inside = False
            else:
                assert event is Mark.BODY_ENDS
                assert not inside
    parser.finish()
    assert parser.is_finished
    assert parser.parts == len(parts)
    return parts


def cut(body, places):
    edges = [0, *sorted({place % (len(body) + 1) for place in places}), len(body)]
    return [body[start:end] for start, end in itertools.pairwise(edges)]


def one_by_one(body):
    return [body[index : index + 1] for index in range(len(body))]


PIECES = st.sampled_from(
    [
        b"\r",
        b"\n",
        b"\r\n",
        b"-",
        b"--",
        DASHED,
        DASHED[:-1],
        b"\r\n" + DASHED[:-1],
        b"\r\n--4f1cx",
        b"\n--4f1c\n",
        b"\0",
    ]
)
DATA = (
    st.lists(PIECES | st.binary(max_size=8), max_size=12)
    .map(b"".join)
    .filter(lambda data: not any(b"\r\n--4f1c" + end in data + b"\r\n" for end in (b"--", b"\r\n", b"\n", b" ", b"\t")))
)


@given(st.lists(DATA, min_size=1, max_size=4), st.lists(st.integers(min_value=0), max_size=12))
def test_what_is_sent_is_what_is_parsed_under_any_chunking(contents, places):
    pieces = [piece for data in contents for piece in part(BOUNDARY, "application/dicom", [data])]
    body = b"".join(pieces) + body_ends(BOUNDARY)
    expected = [({"content-type": "application/dicom"}, data) for data in contents]
    assert parsed(cut(body, places)) == expected
    assert parsed(one_by_one(body)) == expected


@given(st.binary(max_size=200), st.lists(st.integers(min_value=0), max_size=5))
def test_any_bytes_give_parts_or_a_refusal_whatever_the_chunking(body, places):
    def outcome(chunks):
        try:
            return parsed(chunks, "-")
        except (BadRequest, TooLarge) as error:
            return error.reason

    assert outcome(cut(body, places)) == outcome([body])


HEAD = b"Content-Type: application/dicom\r\n\r\n"
ONE = [({"content-type": "application/dicom"}, b"DATA")]
TOLERATED = {
    "plain": b"--4f1c\r\n" + HEAD + b"DATA\r\n--4f1c--\r\n",
    "OHIF: CRLF first, none last": b"\r\n--4f1c\r\n" + HEAD + b"DATA\r\n--4f1c--",
    "preamble": b"This is a multipart message.\r\nIgnore.\r\n--4f1c\r\n" + HEAD + b"DATA\r\n--4f1c--\r\n",
    "preamble with a longer boundary": b"--4f1cc\r\nx\r\n--4f1c\r\n" + HEAD + b"DATA\r\n--4f1c--\r\n",
    "epilogue": b"--4f1c\r\n" + HEAD + b"DATA\r\n--4f1c--\r\n--4f1c\r\n\r\nnothing",
    "text after the closing boundary": b"--4f1c\r\n" + HEAD + b"DATA\r\n--4f1c--text",
    "padding": b"--4f1c \t\r\n" + HEAD + b"DATA\r\n--4f1c  --\r\n--4f1c--\r\n",
    "header name in any case": b"--4f1c\r\ncONTENT-tYPE:application/dicom\r\n\r\nDATA\r\n--4f1c--\r\n",
    "header folded": b"--4f1c\r\nContent-Type:\r\n application/dicom\r\n\r\nDATA\r\n--4f1c--\r\n",
    "header twice": b"--4f1c\r\nContent-Type: application/dicom\r\nContent-Type: b\r\n\r\nDATA\r\n--4f1c--\r\n",
    "LF only": b"--4f1c\nContent-Type: application/dicom\n\nDATA\n--4f1c--\n",
}


@pytest.mark.parametrize("name", [name for name in TOLERATED if name != "padding"])
@pytest.mark.parametrize("chunks", [lambda body: [body], one_by_one, lambda body: [memoryview(bytearray(body))]])
def test_deviations_that_clients_show_are_tolerated(name, chunks):
    assert parsed(chunks(TOLERATED[name])) == ONE


@pytest.mark.parametrize("chunks", [lambda body: [body], one_by_one])
def test_padding_after_a_boundary_is_no_data_but_text_after_it_makes_it_data(chunks):
    assert parsed(chunks(TOLERATED["padding"])) == [({"content-type": "application/dicom"}, b"DATA\r\n--4f1c  --")]


def test_a_part_may_have_no_headers_or_others_too():
    body = b"--4f1c\r\n\r\nA\r\n--4f1c\r\nX-Other: 1\r\nContent-Location: /a:b\r\n\r\nB\r\n--4f1c--"
    assert parsed([body]) == [({}, b"A"), ({"x-other": "1", "content-location": "/a:b"}, b"B")]


@pytest.mark.parametrize(
    "data", [b"\r\n\r\n", b"a\r\n--", b"\r\n--4f1", b"--4f1c", b"\r\n--4f1cd\r\n", b"\n--4f1c\n", b"\r"]
)
@pytest.mark.parametrize("chunks", [lambda body: [body], one_by_one])
def test_what_looks_like_a_boundary_inside_data_stays_data(data, chunks):
    body = b"".join(part(BOUNDARY, "a/b", [data])) + body_ends(BOUNDARY)
    assert parsed(chunks(body)) == [({"content-type": "a/b"}, data)]


def test_views_stay_valid_after_the_next_chunk():
    parser = MultipartParser(BOUNDARY)
    source = bytearray(b"--4f1c\r\n\r\nfirst")
    kept = [event for event in parser.feed(source) if isinstance(event, memoryview)]
    source[:] = b"\r\n--4f1c--"
    assert list(parser.feed(source)) == [Mark.PART_ENDS, Mark.BODY_ENDS]
    assert b"".join(kept) == b"first"


BROKEN = {
    "empty": (b"", BadRequest),
    "no boundary": (b"DICM" * 20, BadRequest),
    "another boundary": (b"--4f1d\r\n\r\nDATA\r\n--4f1d--", BadRequest),
    "ends in headers": (b"--4f1c\r\nContent-Type: a/b\r\n", BadRequest),
    "ends in data": (b"--4f1c\r\n\r\nDATA", BadRequest),
    "ends in the closing boundary": (b"--4f1c\r\n\r\nDATA\r\n--4f1c-", BadRequest),
    "ends after a boundary": (b"--4f1c\r\n\r\nDATA\r\n--4f1c\r\n", BadRequest),
    "header without colon": (b"--4f1c\r\nDICM\r\n\r\nDATA\r\n--4f1c--", BadRequest),
    "header too long": (b"--4f1c\r\nA: " + b"a" * 4096 + b"\r\n\r\n\r\n--4f1c--", TooLarge),
    "header endless": (b"--4f1c\r\nA: " + b"a" * 5000, TooLarge),
    "header folded without end": (b"--4f1c\r\nA: a\r\n" + b" aaaaaaa\r\n" * 600, TooLarge),
    "nine headers": (b"--4f1c\r\n" + b"A: a\r\n" * 9 + b"\r\n\r\n--4f1c--", TooLarge),
    "preamble too long": (b"p" * 70_000 + b"\r\n--4f1c--", TooLarge),
    "epilogue too long": (b"--4f1c--" + b"e" * 70_000, TooLarge),
    "too many parts": (b"--4f1c\r\n\r\n\r\n" * 10_001 + b"--4f1c--", TooLarge),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_body_is_refused_and_the_reason_is_constant(name):
    body, error = BROKEN[name]
    reasons = set()
    for size in (1000, 4096, 1 << 20):
        with pytest.raises(error) as refused:
            parsed([body[start : start + size] for start in range(0, len(body), size)])
        reasons.add(refused.value.reason)
    assert len(reasons) == 1


def test_limits_hold_exactly():
    header = b"A: " + b"a" * (multipart.MAXIMUM_HEADER_BYTES - 3)
    body = b"--4f1c\r\n" + b"B: b\r\n" * (multipart.MAXIMUM_HEADERS - 1) + header + b"\r\n\r\nDATA\r\n--4f1c--"
    assert len(parsed([body])) == 1
    assert len(parsed([b"--4f1c\r\n\r\n\r\n" * multipart.MAXIMUM_PARTS + b"--4f1c--"])) == multipart.MAXIMUM_PARTS
    padding = b"\r\n".rjust(multipart.MAXIMUM_DISCARDED_BYTES - 1, b"p")
    assert parsed([padding + TOLERATED["plain"]]) == ONE


def test_no_more_than_a_delimiter_is_held_between_chunks():
    parser = MultipartParser("b" * 70)
    head = b"--" + b"b" * 70 + b"\r\n\r\n"
    size = sum(len(event) for event in parser.feed(head + b"\r\n--bbb" * 50_000) if isinstance(event, memoryview))
    assert size > 7 * 50_000 - 74


CONTENT_TYPES = [
    ('multipart/related; type="application/dicom"; boundary="0f3c-41ef"', ("0f3c-41ef", "application/dicom")),
    ("multipart/related;boundary=0f3c;type=application/dicom", ("0f3c", "application/dicom")),
    ("MULTIPART/Related; Boundary=a=b; TYPE=Application/DICOM", ("a=b", "application/dicom")),
    ("multipart/related; boundary=x", ("x", "")),
    ('multipart/related; boundary="a b\'()+_,-./:=?"', ("a b'()+_,-./:=?", "")),
]


@pytest.mark.parametrize(("content_type", "expected"), CONTENT_TYPES)
def test_the_boundary_is_read_quoted_or_bare(content_type, expected):
    assert boundary_of(content_type) == expected


@pytest.mark.parametrize(
    ("content_type", "error"),
    [
        ("multipart/related", BadRequest),
        ('multipart/related; boundary=""', BadRequest),
        ("multipart/related; boundary=" + "b" * 201, BadRequest),
        ("multipart/related; boundary=a\u00e9", BadRequest),
        ('multipart/related; boundary="a\r\nb"', BadRequest),
        ("multipart/form-data; boundary=x", UnsupportedMediaType),
        ("application/dicom", UnsupportedMediaType),
        ("", UnsupportedMediaType),
    ],
)
def test_a_content_type_without_a_usable_boundary_is_refused(content_type, error):
    with pytest.raises(error):
        boundary_of(content_type)


def test_a_part_is_written_as_viewers_read_it():
    head = part_begins("ab12", "image/jls; transfer-syntax=1.2.840.10008.1.2.4.80", "http://h/dicomweb/frames/1")
    assert head == (
        b"--ab12\r\nContent-Type: image/jls; transfer-syntax=1.2.840.10008.1.2.4.80\r\n"
        b"Content-Location: http://h/dicomweb/frames/1\r\n\r\n"
    )
    assert body_ends("ab12") == b"--ab12--\r\n"
    assert body_type("application/dicom", "ab12") == 'multipart/related; type="application/dicom"; boundary=ab12'


@pytest.mark.parametrize(
    "location", ["http://h/\r\nX: 1", "http://h/\n", "http://h/\0", "http://h/\u2028", "http://h/\u00e9"]
)
def test_a_location_cannot_break_out_of_its_header(location):
    with pytest.raises(BadRequest):
        part_begins("ab12", "a/b", location)


def test_boundaries_are_random_and_hexadecimal():
    boundaries = {new_boundary() for _ in range(100)}
    assert len(boundaries) == 100
    assert all(len(one) == 32 and int(one, 16) >= 0 for one in boundaries)

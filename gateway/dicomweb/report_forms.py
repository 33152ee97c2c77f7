"""A report as one HTML document and as plain text: every word of it escaped, nothing in it that runs.

Pure. The same items in the same order in both; a limit of bytes holds for each. PS3.18 §8.7.4
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise

from gateway.dicomweb.content_items import Phrase
from gateway.dicomweb.report import ContentItem, Report
from storage.errors import TooLarge

HTML = "text/html"
PLAIN = "text/plain"
MAXIMUM_BYTES = 16 << 20

_LINE_ENDS = re.compile(r"\r\n|\n\r|\r")
_CONTROLS = re.compile(r"[\0-\x08\x0b-\x1f\x7f-\x9f]")
_DEEPEST_HEADING = 6
_STYLE = """\
:root{color-scheme:light dark}
body{font:1rem/1.5 system-ui,sans-serif;max-width:60rem;margin:0 auto;padding:1rem}
dl{display:grid;grid-template-columns:max-content auto;gap:0 1rem;margin:0}
dt,.name,.relationship{opacity:.8}
dd{margin:0}
header{border-bottom:1px solid;padding-bottom:1rem}
ul{list-style:none;padding-left:1.25rem}
main>ul{padding-left:0}
.name,.relationship{unicode-bidi:isolate}
.value,dd{white-space:pre-wrap;overflow-wrap:anywhere;unicode-bidi:isolate}
.relationship{font-style:italic}
.missing{font-style:italic;border:1px dashed;padding:0 .25em}
.continuous,.continuous li,.continuous ul{display:inline;padding:0}
.continuous .name{font-size:.75em}
"""


def write(report: Report, media_type: str) -> bytes:
    """The report in one of its forms, UTF-8. Raises TooLarge beyond ``MAXIMUM_BYTES``."""
    written: list[bytes] = []
    left = MAXIMUM_BYTES
    for piece in FORMS[media_type](report):
        raw = piece.encode("utf-8", "replace")
        left -= len(raw)
        if left < 0:
            raise TooLarge("The rendered report is larger than the limit")
        written.append(raw)
    return b"".join(written)


def _clean(text: str) -> str:
    """Text with line ends of one kind, and no control characters but those and tabs."""
    return _CONTROLS.sub("\ufffd", _LINE_ENDS.sub("\n", text))


def _escaped(text: str) -> str:
    return html.escape(_clean(text), quote=True)


def _separator(item: ContentItem) -> str:
    return "\n" if item.value_type == "TABLE" else ", "


def _html(report: Report) -> Iterator[str]:
    title = _marked(report.title)
    language = f' lang="{_escaped(report.language)}"' if report.language else ""
    yield '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    yield f"<title>{_escaped(_plain_phrase(report.title))}</title>\n<style>\n{_STYLE}</style>\n</head>\n"
    yield f"<body>\n<header>\n<h1{language}>{title}</h1>\n<dl>\n"
    for field in report.fields:
        yield f"<dt>{_escaped(field.label)}</dt><dd>{', '.join(map(_marked, field.phrases))}</dd>\n"
    yield f'</dl>\n</header>\n<main id="item-1"{language}>\n'
    root = report.items[0]
    yield f"<p>{_said(root)}</p>\n" if root.phrases or root.observed else ""
    for above, item in pairwise(report.items):
        yield _closed(above.depth - item.depth) if above.depth >= item.depth else _list_of(above)
        yield _item(item)
    yield _closed(report.items[-1].depth - 1) + "</ul>\n" if len(report.items) > 1 else ""
    yield "</main>\n</body>\n</html>\n"


def _list_of(parent: ContentItem) -> str:
    return '\n<ul class="continuous">\n' if parent.is_continuous else "\n<ul>\n"


def _closed(levels: int) -> str:
    """The end of an item, and of the lists around it down to that of the next item."""
    return "</li>\n" + "</ul>\n</li>\n" * levels


def _item(item: ContentItem) -> str:
    """One item, left open for those below it."""
    number = f'<span class="name">[{item.number}]</span> ' if item.is_referenced else ""
    before = f'<li id="item-{item.number}">{number}{_relationship(item)}'
    if item.is_container:
        level = min(item.depth + 1, _DEEPEST_HEADING)
        return f"{before}<h{level}>{_marked(item.name)}</h{level}>{_said(item)}"
    return f'{before}<span class="name">{_marked(item.name)}:</span> {_said(item)}'


def _relationship(item: ContentItem) -> str:
    if not item.relationship.text:
        return ""
    return f'<span class="relationship">{_marked(item.relationship)}:</span> '


def _said(item: ContentItem) -> str:
    observed = f' <span class="name">(observed {_escaped(item.observed)})</span>' if item.observed else ""
    if not item.phrases:
        return observed
    return f'<span class="value" dir="auto">{_separator(item).join(map(_marked, item.phrases))}</span>{observed}'


def _marked(phrase: Phrase) -> str:
    text = _escaped(phrase.text)
    if phrase.is_missing:
        return f'<em class="missing">[{text}]</em>'
    return f'<a href="{_escaped(phrase.href)}">{text}</a>' if phrase.href else text


def _plain(report: Report) -> Iterator[str]:
    title = " ".join(_clean(_plain_phrase(report.title)).split())
    yield f"{title}\n{'=' * min(len(title), 80)}\n\n"
    for field in report.fields:
        yield from _lines("", f"{field.label}: {', '.join(map(_plain_phrase, field.phrases))}")
    yield "\n"
    for item in report.items:
        if item.depth or item.phrases or item.observed:
            yield from _lines("  " * (item.depth - 1), _plain_item(item))


def _plain_item(item: ContentItem) -> str:
    number = f"[{item.number}] " if item.is_referenced else ""
    relationship = f"({_plain_phrase(item.relationship)}) " if item.relationship.text else ""
    observed = f" (observed {item.observed})" if item.observed else ""
    said = _separator(item).join(map(_plain_phrase, item.phrases))
    return f"{number}{relationship}{_plain_phrase(item.name)}:{' ' if said else ''}{said}{observed}"


def _plain_phrase(phrase: Phrase) -> str:
    if phrase.is_missing:
        return f"[{phrase.text}]"
    return f"{phrase.text} <{phrase.href}>" if phrase.href and not phrase.href.startswith("#") else phrase.text


def _lines(indent: str, text: str) -> Iterator[str]:
    """Text behind an indent, its further lines a little more; line by line, for indents add up."""
    for number, line in enumerate(_clean(text).split("\n")):
        yield f"{indent}{'  ' if number else ''}{line}\n"


FORMS: Mapping[str, Callable[[Report], Iterator[str]]] = {HTML: _html, PLAIN: _plain}
"""By media type; the first is the default."""

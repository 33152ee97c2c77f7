"""Character repertoires: what the terms of Specific Character Set are called by Python. PS3.3 §C.12.1.1.2

Data only. A repertoire without a codec of its own is read by the one that contains it.
"""

from __future__ import annotations

from collections.abc import Mapping

_SINGLE_BYTE = {
    "100": ("-A", "latin_1"),
    "101": ("-B", "iso8859_2"),
    "109": ("-C", "iso8859_3"),
    "110": ("-D", "iso8859_4"),
    "126": ("-F", "iso8859_7"),
    "127": ("-G", "iso8859_6"),
    "138": ("-H", "iso8859_8"),
    "144": ("-L", "iso8859_5"),
    "148": ("-M", "iso8859_9"),
    "166": ("-T", "tis_620"),
    "203": ("-b", "iso8859_15"),
    "13": (")I", "shift_jis"),
}
_MULTI_BYTE = {
    "87": ("$B", "iso2022_jp"),
    "159": ("$(D", "iso2022_jp_2"),
    "149": ("$)C", "euc_kr"),
    "58": ("$)A", "gb2312"),
}

ENCODINGS: Mapping[str, str] = {
    "": "latin_1",
    "ISO_IR 6": "latin_1",
    "ISO 2022 IR 6": "latin_1",
    "ISO_IR 192": "utf_8",
    "GB18030": "gb18030",
    "GBK": "gbk",
    "ISO 2022 GBK": "gbk",
    "ISO 2022 58": "gb2312",
    **{f"ISO_IR {number}": codec for number, (_, codec) in _SINGLE_BYTE.items()},
    **{f"ISO 2022 IR {number}": codec for number, (_, codec) in (_SINGLE_BYTE | _MULTI_BYTE).items()},
}
"""Codec by defined term. PS3.3 Tables C.12-2 to C.12-5"""

ESCAPES: Mapping[bytes, str] = {
    b"(B": "latin_1",
    b"(J": "shift_jis",
    **{code.encode("ascii"): codec for code, codec in (_SINGLE_BYTE | _MULTI_BYTE).values()},
}
"""Codec by what follows ESC. PS3.3 Tables C.12-3 and C.12-4"""

STATEFUL = frozenset(("iso2022_jp", "iso2022_jp_2"))
"""Codecs that read their escape sequences themselves: two bytes of seven bits each, which may look like delimiters."""

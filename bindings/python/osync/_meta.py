"""Reads table_meta.txt, the description of its table that a TabletServer keeps in each partition's folder: an
api::TableMeta in protobuf's text format. What comes out is the serialized message, with the fields that rows need."""

from __future__ import annotations

import re
from typing import Any, Dict, Iterator, Optional, Sequence, Tuple

_ENUMS = {
    **{"kBool": 1, "kSmallInt": 2, "kInt": 3, "kBigInt": 4, "kFloat": 5, "kDouble": 6, "kDate": 7, "kTimestamp": 8},
    **{"kVarchar": 13, "kString": 14, "kArray": 15, "kMap": 16},
    **{"kNoCompress": 0, "kSnappy": 1, "kMemory": 1, "kSSD": 2, "kHDD": 3},
    **{"kAbsoluteTime": 1, "kRelativeTime": 2, "kLatestTime": 3, "kAbsAndLat": 4, "kAbsOrLat": 5},
    **{"true": 1, "false": 0},
}
# Field -> its number and, of a message, its fields.
_COLUMN = {"name": (1, None), "data_type": (2, None), "not_null": (3, None)}
_TTL = {"ttl_type": (1, None), "abs_ttl": (2, None), "lat_ttl": (3, None)}
_KEY = {"index_name": (1, None), "col_name": (2, None), "ts_name": (3, None), "flag": (4, None), "ttl": (5, _TTL)}
_VERSION = {"id": (1, None), "field_count": (2, None)}
_META: Dict[str, Tuple[int, Any]] = {
    "tid": (1, None),
    "name": (2, None),
    "pid": (3, None),
    "compress_type": (8, None),
    "column_desc": (10, _COLUMN),
    "column_key": (11, _KEY),
    "added_column_desc": (12, _COLUMN),
    "db": (14, None),
    "schema_versions": (15, _VERSION),
    "storage_mode": (17, None),
}
_MAX_DEPTH = 100

_TOKEN = re.compile(
    r"""(?:\s|\#[^\n]*)*(?:([A-Za-z_]\w*)|(-?[\d.]\w*)|("(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')|(.))"""
)
_ESCAPE = re.compile(rb"\\(?:([0-7]{1,3})|[xX]([0-9a-fA-F]{1,2})|(.))", re.S)
_LETTERS = dict(zip(b"abfnrtv", b"\a\b\f\n\r\t\v"))


def _unescape(match: "re.Match[bytes]") -> bytes:
    octal, hexadecimal, letter = match.groups()
    if letter is not None:
        return bytes([_LETTERS.get(letter[0], letter[0])])
    return bytes([int(octal, 8) & 255 if octal else int(hexadecimal, 16)])


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(number: int, value: Any) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    data: bytes = value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


class _Parser:
    def __init__(self, text: str) -> None:
        self.tokens: Iterator["re.Match[str]"] = _TOKEN.finditer(text.strip())
        self.advance()

    def advance(self) -> None:
        match = next(self.tokens, None)
        found: Sequence[Optional[str]] = match.groups() if match else (None, None, None, None)
        self.word, self.number, self.text, self.mark = found
        self.end = match is None

    def take(self, mark: str) -> bool:
        found = self.mark == mark
        if found:
            self.advance()
        return found

    def value(self) -> Any:
        if self.text is not None:
            out = b""
            while self.text is not None:  # parts that stand side by side are one string
                out += _ESCAPE.sub(_unescape, self.text[1:-1].encode())
                self.advance()
            return out
        word, number = self.word, self.number
        self.advance()
        if number is not None:
            return int(number, 0)
        if word is None:
            raise ValueError("a value is missing")
        return _ENUMS.get(word)  # None: of a field that isn't needed

    def message(self, fields: Dict[str, Tuple[int, Any]], depth: int = 0) -> bytes:
        out = b""
        while self.word is not None and depth < _MAX_DEPTH:
            name = self.word
            self.advance()
            number, inner = fields.get(name, (0, None))
            colon = self.take(":")
            if self.mark in ("{", "<"):
                end = "}" if self.mark == "{" else ">"
                self.advance()
                value: Any = self.message(inner or {}, depth + 1)
                if not self.take(end):
                    raise ValueError(f"'{end}' is missing behind {name}")
            elif not colon or (number and inner):
                raise ValueError(f"{name} has no value")
            else:
                value = self.value()
                if number and value is None:
                    raise ValueError(f"{name} has a value that isn't known")
            if number:
                out += _field(number, value)
            if not self.take(","):
                self.take(";")
        return out


def from_text(text: str) -> bytes:
    """ValueError: it isn't a TableMeta."""
    parser = _Parser(text)
    out = parser.message(_META)
    if not parser.end:
        raise ValueError("it isn't protobuf's text format")
    return out

"""The format of an index: what was written is read, and damaged bytes are refused."""

from __future__ import annotations

import json
import sys
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_warmcache import SnapshotError
from flask_warmcache.store import format as fmt

SMALL = {"list": "files", "generation": 5, "sections": {"starts": [0, 16, 7]}}


def raw(text: bytes, *, number: int = fmt.FORMAT, checksum: int | None = None) -> bytes:
    """Return a header as another program might have written it."""
    return fmt.PREAMBLE % (number, len(text), zlib.crc32(text) if checksum is None else checksum) + text


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.none(), max_size=5))
def test_header_is_read_as_it_was_written(more: dict[str, Any]) -> None:
    packed = fmt.pack_header({**more, **SMALL})
    header, base = fmt.read_header(packed, len(packed) + 16)
    assert {**more, **SMALL, "format": fmt.FORMAT, "byteorder": sys.byteorder} == header
    assert base == len(packed)


@given(st.text(max_size=40))
def test_sections_begin_at_multiple_of_eight(name: str) -> None:
    assert len(fmt.pack_header({**SMALL, "list": name})) % 8 == 0


def test_header_cut_at_any_length_is_refused() -> None:
    packed = fmt.pack_header(SMALL)
    for length in range(len(packed)):
        with pytest.raises(SnapshotError):
            fmt.read_header(packed[:length], length)


@pytest.mark.parametrize("offset, length", [(-1, 8), (0, -1), (0, 17), (9, 8), (10**30, 0)])
def test_section_outside_file_is_refused(offset: int, length: int) -> None:
    packed = fmt.pack_header({**SMALL, "sections": {"starts": [offset, length, 0]}})
    with pytest.raises(SnapshotError, match="section starts of the index is cut short"):
        fmt.read_header(packed, len(packed) + 16)


def test_header_with_any_bit_changed_is_refused() -> None:
    packed = fmt.pack_header(SMALL)
    for at in range(8 * len(packed)):
        changed = bytearray(packed)
        changed[at // 8] ^= 1 << at % 8
        with pytest.raises(SnapshotError):
            fmt.read_header(changed, len(packed) + 16)


def test_another_format_byte_order_or_first_line_is_refused() -> None:
    text = json.dumps(SMALL).encode()
    other_order = json.dumps({**SMALL, "byteorder": "middle"}).encode()
    for packed, why in (
        (raw(text, number=2), "not of this format"),
        (b"PK\3\4" + bytes(100), "not of this format"),
        (b"warmcache-index 1 00000000xx 89abcdef\n", "damaged first line"),
        (b"warmcache-index 1 0000000000 89abcdef\n", "cut short"),
        (b"warmcache-index 1 -000000009 89abcdef\n", "cut short"),
        (b"warmcache-index 1 9999999999 89abcdef\n", "cut short"),
        (raw(other_order), "another byte order"),
    ):
        with pytest.raises(SnapshotError, match=why):
            fmt.read_header(packed, len(packed) + 16)


def test_text_and_whole_numbers_are_different_keys() -> None:
    assert len({fmt.key_hash(key) for key in (1, "1", -1, 0, "", 2**70, "\udcff", "ä")}) == 8
    for unfit in (None, True, 1.0, b"a", ("a",), ["a"]):
        with pytest.raises(TypeError, match="a key is text or a whole number"):
            fmt.key_hash(unfit)


def test_fingerprint_depends_on_version_and_item() -> None:
    prints = {fmt.fingerprint_of(*one) for one in ((b"", b"a"), (b"1", b"a"), (b"", b"b"))}
    assert len(prints) == 3
    assert {len(one) for one in prints} == {fmt.FINGERPRINT_BYTES}


def test_text_is_folded_for_search() -> None:
    assert fmt.fold("  Große\tSTRASSE \n Ⅷ ") == "grosse strasse ⅷ"

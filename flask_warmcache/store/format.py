"""The bytes of a snapshot: what an index file and a data line look like.

An index file is a preamble of fixed length, a JSON header, and packed arrays
("sections") in the machine's byte order, each beginning at a multiple of eight:

    warmcache-index 1 0000001234 89abcdef\\n      format, header length, CRC-32 of the header
    {"list": "files", "generation": ..., "sections": {"starts": [offset, length, crc32], ...}, ...}
    <sections>

A data file is text: one line that says what it is, then one line per item,

    <fingerprint, 32 hex digits> TAB <JSON> NEWLINE

The sections ``starts`` and ``ends`` enclose an item's JSON with its tab and its newline.  JSON
allows that white space between items, and neither byte can stand inside JSON text, so a page is the
slices joined by commas, and a look at both ends of a slice shows whether it was cut where an item is.
"""

from __future__ import annotations

import hashlib
import json
import sys
import zlib
from collections.abc import Mapping
from typing import Any

from ..errors import SnapshotError

FORMAT = 1
PREAMBLE = b"warmcache-index %d %010d %08x\n"
PREAMBLE_LENGTH = len(PREAMBLE % (FORMAT, 0, 0))
# A header holds a few hundred bytes per view and failed write; far above that, it is not ours.
HEADER_MAX = 64 * 1024 * 1024
FINGERPRINT_LENGTH = 32
ALL = "all"
SOURCE_ORDER = ""


def view_section(filter_name: str, sort_name: str) -> str:
    """The section that holds the positions of one filter in one order."""
    return f"view:{filter_name}:{sort_name}"


def rank_section(sort_name: str) -> str:
    """The section that gives each position's place in one order, for ordering what a search found."""
    return f"rank:{sort_name}"


def flags_section(filter_name: str) -> str:
    """The section with one byte per position: whether the filter lets it through."""
    return f"flags:{filter_name}"


def key_hash(key: object) -> int:
    """Eight bytes of hash for a key, which is text or a whole number (and 1 is not "1").

    :raises TypeError: for a key of another type.
    """
    if isinstance(key, str):
        # File names that are no UTF-8 come from the system as lone surrogates.
        tagged = b"s" + key.encode("utf-8", "surrogatepass")
    elif isinstance(key, int) and not isinstance(key, bool):
        tagged = b"i%d" % key
    else:
        raise TypeError(f"a key is text or a whole number, not {type(key).__name__}")
    return int.from_bytes(hashlib.blake2b(tagged, digest_size=8).digest(), "little")


def fingerprint_of(version: str, encoded: bytes) -> bytes:
    """The fingerprint of one source item, as it stands in a data line."""
    return (
        hashlib.blake2b(
            version.encode("utf-8", "surrogatepass") + b"\0" + encoded, digest_size=FINGERPRINT_LENGTH // 2
        )
        .hexdigest()
        .encode()
    )


def fold(words: str) -> str:
    """Text as search compares it: case folded, every run of white space one space."""
    return " ".join(words.casefold().split())


def data_first_line(data_id: str) -> bytes:
    """The line that says what a data file is and which one."""
    return b'{"format": "warmcache-data %d", "id": "%s"}\n' % (FORMAT, data_id.encode())


def pack_header(header: Mapping[str, Any]) -> bytes:
    """Preamble and header, padded so that the sections begin at a multiple of eight."""
    text = json.dumps({**header, "format": FORMAT, "byteorder": sys.byteorder}).encode()
    text += b" " * (-(PREAMBLE_LENGTH + len(text)) % 8)
    return PREAMBLE % (FORMAT, len(text), zlib.crc32(text)) + text


def read_header(index: Any, size: int) -> tuple[dict[str, Any], int]:
    """The header of a mapped index, and where its sections begin.

    :param index: something sliceable to bytes.
    :param size: the file's length in bytes.
    :raises SnapshotError: when it is damaged, cut short, or of another format or machine.
    """
    preamble = bytes(index[:PREAMBLE_LENGTH])
    words = preamble.split()
    if len(words) != 4 or words[0] != b"warmcache-index" or words[1] != b"%d" % FORMAT:
        raise SnapshotError("the index is not of this format")
    try:
        length, checksum = int(words[2]), int(words[3], 16)
    except ValueError:
        raise SnapshotError("the index has a damaged first line") from None
    base = PREAMBLE_LENGTH + length
    if not 0 < length <= HEADER_MAX or base > size:
        raise SnapshotError("the index is cut short")
    text = bytes(index[PREAMBLE_LENGTH:base])
    if zlib.crc32(text) != checksum:
        raise SnapshotError("the index has a damaged header")
    header = json.loads(text)
    if header["byteorder"] != sys.byteorder:
        raise SnapshotError("the index was written on a machine of another byte order")
    for name, (offset, section_length, _) in header["sections"].items():
        if offset < 0 or section_length < 0 or base + offset + section_length > size:
            raise SnapshotError(f"section {name} of the index is cut short")
    return header, base

"""The bytes of a snapshot: what an index file and a data line look like.

An index file is a preamble of fixed length, a JSON header, and packed arrays
("sections") in the machine's byte order, each beginning at a multiple of eight:

    warmcache-index 1 0000001234 89abcdef\\n      format, header length, CRC-32 of the header
    {"list": "files", "generation": ..., "sections": {"places": [offset, length, crc32], ...}, ...}
    <sections>

A data file is text: one line that says what it is, then one line per item,

    <fingerprint, 32 hex digits> TAB <JSON> NEWLINE

An item's place is a pair: where its tab and where its newline is in the data file.  JSON allows a tab
before an item, and neither byte can stand inside JSON text, so a page is the slices joined by commas, and
a look at both ends shows whether a slice is an item.  The section ``places`` has the pairs of all items in
source order, and each view has a section of its own with the pairs in its order: so a page reads one piece
of the index and not, through a position each, as many as it has items.  Measured at 1,000,000 items, that
and the join take 10 us where positions took 26.

An item has a slot, the number under which the sections know it.  A list that was just made has its items in
the slots 0, 1, 2, ... in source order.  A later write keeps every other item's slot: a new item gets the next
free one, one that goes leaves its slot dead, and source order becomes a view like the others.  So a write
copies the sections and changes a few entries, whatever the size.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import zlib
from collections.abc import Mapping
from typing import Any, Literal

from ..errors import SnapshotError

FORMAT = 1
PREAMBLE = b"warmcache-index %d %010d %08x\n"
PREAMBLE_LENGTH = len(PREAMBLE % (FORMAT, 0, 0))
# A header holds a few hundred bytes per view and failed write; far above that, it is not ours.
HEADER_MAX = 64 * 1024 * 1024
FINGERPRINT_BYTES = 16
FINGERPRINT_LENGTH = 2 * FINGERPRINT_BYTES  # in a data line
NO_FINGERPRINT = bytes(FINGERPRINT_BYTES)  # of items that are made anew each time
# Between two neighbours in an order: room for thirty items that come one after another into the same place.
RANK_GAP = 1 << 32
DATA_FIRST_LINE = rb'\{"format": "warmcache-data %d", "id": "([0-9a-f]+)"\}\n' % FORMAT
TAB = ord("\t")
ALL = "all"
SOURCE_ORDER = ""


def view_section(filter_name: str, sort_name: str) -> str:
    """The section that holds the places of one filter's items in one order."""
    return f"view:{filter_name}:{sort_name}"


def order_section(filter_name: str, sort_name: str) -> str:
    """The section that holds the slots of one filter's items in one order."""
    return f"order:{filter_name}:{sort_name}"


def rank_section(sort_name: str) -> str:
    """The section with a number for each slot that rises in one order, with gaps for items that come between."""
    return f"rank:{sort_name}"


def place_type(data_length: int) -> Literal["I", "Q"]:
    """The array type of places in a data file of so many bytes: half the index up to 4 GiB."""
    return "I" if data_length < 1 << 32 else "Q"


def flags_section(filter_name: str) -> str:
    """The section with one byte per slot: whether the filter lets it through."""
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


def fingerprint_of(version: bytes, encoded: bytes) -> bytes:
    """The fingerprint of one source item; a data line has it in hex.

    :param encoded: what, unchanged, means that the enriched item is still good, its key included: so an equal
        fingerprint is an equal key.
    """
    return hashlib.blake2b(version + b"\0" + encoded, digest_size=FINGERPRINT_BYTES).digest()


def fold(words: str) -> str:
    """Text as search compares it: case folded, every run of white space one space."""
    return " ".join(words.casefold().split())


def data_first_line(data_id: str) -> bytes:
    """The line that says what a data file is and which one."""
    return b'{"format": "warmcache-data %d", "id": "%s"}\n' % (FORMAT, data_id.encode())


def data_line(fingerprint: bytes, encoded: bytes) -> bytes:
    """One item's line in a data file."""
    return b"%b\t%b\n" % (fingerprint.hex().encode(), encoded)


def data_id_of(first_line: bytes) -> str:
    """The id in a data file's first line.

    :raises SnapshotError: when it is not such a line.
    """
    match = re.fullmatch(DATA_FIRST_LINE, first_line)
    if match is None:
        raise SnapshotError("the file does not begin as a data file of this format does")
    return match[1].decode()


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

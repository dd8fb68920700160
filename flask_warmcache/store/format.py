"""The bytes of a snapshot: the format of index files and data files.

An index file is a preamble of fixed length, a JSON header, and packed arrays ("sections") in the machine's byte
order, each of which begins at a multiple of eight:

    warmcache-index 1 0000001234 89abcdef\\n      format, header length, CRC-32 of the header
    {"list": "files", "generation": ..., "sections": {"places": [offset, length, crc32], ...}, ...}
    <sections>

A data file is text: one line that identifies it, then one line per item,

    <fingerprint, 32 hex digits> TAB <JSON> NEWLINE

and possibly a line of the same form that is no item (rebuild/leftovers.py).

An item's place is a pair of offsets in the data file: of its tab and of its newline.  JSON allows a tab before
an item, and neither byte can occur inside JSON text.  So a page is the slices joined by commas, and comparing
both ends shows whether a slice is an item.  The section ``places`` has the pairs of all items in source order,
and each view has its own section with the pairs in its order.  A page therefore reads one piece of the index;
with positions it would read one piece per item.  Measured at 1,000,000 items: this and the join take 10 us, with
positions 26 us.

An item has a slot, a number that identifies it in the sections.  After a rebuild the items have the slots 0, 1,
2, ... in source order.  A later write keeps the slots of all other items: a new item gets the next free slot, a
discarded one leaves its slot dead, and source order becomes a view like the others.  So a write copies the
sections and changes a few entries, however long the list is.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import zlib
from collections.abc import Mapping
from typing import Any, Literal
from unicodedata import normalize

from ..errors import SnapshotError

FORMAT = 1
PREAMBLE = b"warmcache-index %d %010d %08x\n"
PREAMBLE_LENGTH = len(PREAMBLE % (FORMAT, 0, 0))
# A header holds a few hundred bytes per view and write; a much larger one is not ours.
HEADER_MAX = 64 * 1024 * 1024
FINGERPRINT_BYTES = 16
FINGERPRINT_LENGTH = 2 * FINGERPRINT_BYTES  # in a data line
NO_FINGERPRINT = bytes(FINGERPRINT_BYTES)  # of items that every rebuild makes again
# Between the ranks of two neighbours: room to insert thirty items, one after another, at the same place.
RANK_GAP = 1 << 32
DATA_FIRST_LINE = rb'\{"format": "warmcache-data %d", "id": "([0-9a-f]+)"\}\n' % FORMAT
TAB = ord("\t")
ALL = "all"
SOURCE_ORDER = ""


def view_section(filter_name: str, sort_name: str) -> str:
    """Return the name of the section with the places of one filter's items in one order."""
    return f"view:{filter_name}:{sort_name}"


def order_section(filter_name: str, sort_name: str) -> str:
    """Return the name of the section with the slots of one filter's items in one order."""
    return f"order:{filter_name}:{sort_name}"


def rank_section(sort_name: str) -> str:
    """Return the name of the section with each slot's rank in one order: a number, with gaps for later items."""
    return f"rank:{sort_name}"


def place_type(data_length: int) -> Literal["I", "Q"]:
    """Return the array type of places in a data file of this length; up to 4 GiB it halves the index."""
    return "I" if data_length < 1 << 32 else "Q"


def flags_section(filter_name: str) -> str:
    """Return the name of the section with one byte per slot: whether its item matches the filter."""
    return f"flags:{filter_name}"


def key_hash(key: object) -> int:
    """Return an eight-byte hash of a key, which is text or a whole number (1 is not "1").

    :raises TypeError: for a key of another type.
    """
    if isinstance(key, str):
        # The system returns file names that are not UTF-8 with lone surrogates.
        tagged = b"s" + key.encode("utf-8", "surrogatepass")
    elif isinstance(key, int) and not isinstance(key, bool):
        tagged = b"i%d" % key
    else:
        raise TypeError(f"a key is text or a whole number, not {type(key).__name__}")
    return int.from_bytes(hashlib.blake2b(tagged, digest_size=8).digest(), "little")


def fingerprint_of(version: bytes, encoded: bytes) -> bytes:
    """Return the fingerprint of one source item; a data line has it in hex.

    :param encoded: what the enriched item depends on, its key included: equal fingerprints mean equal keys.
    """
    return hashlib.blake2b(version + b"\0" + encoded, digest_size=FINGERPRINT_BYTES).digest()


def fold(words: str) -> str:
    """Return text as search compares it: case folded and composed, with every run of white space as one space.

    Texts that look alike are alike, whether an accent is part of its letter or follows it, as in names from a Mac.
    """
    if not words.isascii():
        words = normalize("NFD", words)  # some letters fold in another way when they are composed
    folded = words.casefold()
    return " ".join((folded if folded.isascii() else normalize("NFC", folded)).split())


def data_first_line(data_id: str) -> bytes:
    """Return the first line of a data file, which identifies it."""
    return b'{"format": "warmcache-data %d", "id": "%s"}\n' % (FORMAT, data_id.encode())


def data_line(fingerprint: bytes, encoded: bytes) -> bytes:
    """Return one item's line in a data file."""
    return b"%b\t%b\n" % (fingerprint.hex().encode(), encoded)


def data_id_of(first_line: bytes) -> str:
    """Return the id in a data file's first line.

    :raises SnapshotError: when the line is not that of a data file.
    """
    match = re.fullmatch(DATA_FIRST_LINE, first_line)
    if match is None:
        raise SnapshotError("the file does not begin as a data file of this format does")
    return match[1].decode()


def pack_header(header: Mapping[str, Any]) -> bytes:
    """Return preamble and header, padded so that the sections begin at a multiple of eight."""
    text = json.dumps({**header, "format": FORMAT, "byteorder": sys.byteorder}).encode()
    text += b" " * (-(PREAMBLE_LENGTH + len(text)) % 8)
    return PREAMBLE % (FORMAT, len(text), zlib.crc32(text)) + text


def read_header(index: Any, size: int) -> tuple[dict[str, Any], int]:
    """Return the header of a mapped index of ``size`` bytes, and where its sections begin.

    :raises SnapshotError: when it is damaged, cut short, or of another format or byte order.
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
    if zlib.crc32(text) != checksum or preamble != PREAMBLE % (FORMAT, length, checksum):
        raise SnapshotError("the index has a damaged header")
    header = json.loads(text)
    if header["byteorder"] != sys.byteorder:
        raise SnapshotError("the index was written on a machine of another byte order")
    for name, (offset, section_length, _) in header["sections"].items():
        if offset < 0 or section_length < 0 or base + offset + section_length > size:
            raise SnapshotError(f"section {name} of the index is cut short")
    return header, base

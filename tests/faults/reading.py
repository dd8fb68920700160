"""Reads the list of ``app_files`` as fast as it can and checks each read; prints the counts as JSON.

The argument says how many generations are to be seen.
"""

from __future__ import annotations

import json
import os
import sys
import zlib
from pathlib import Path

from flask_warmcache.store.reader import Reader
from tests.support.answers import check_items


def main(wanted: int) -> None:
    reader = Reader(Path(os.environ["WARMCACHE_DIR"]), "files")
    reads, faults, generations = 0, [], 0
    newest, digest = 0, 0
    while generations < wanted:
        snapshot = reader.current()
        if snapshot is None:
            faults.append("nothing to read")
            break
        body = snapshot.items_json(snapshot.view("all", ""))
        odd = snapshot.items_json(snapshot.view("odd", "last"))
        reads += 1
        found = zlib.crc32(odd, zlib.crc32(body))
        if snapshot.generation == newest:
            if found != digest:
                faults.append(f"generation {newest} has changed")
            continue
        if snapshot.generation < newest:
            faults.append(f"from {newest} back to {snapshot.generation}")
        newest, digest, generations = snapshot.generation, found, generations + 1
        items = json.loads(b"[%b]" % body)
        check_items(items)
        if json.loads(b"[%b]" % odd) != [item for item in reversed(items) if item["number"] % 2]:
            faults.append(f"a view of generation {newest} is another's")
    print(json.dumps({"reads": reads, "generations": generations, "faults": faults[:5]}))


main(int(sys.argv[1]))

"""Name the invented comics."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

PUBLISHERS = (
    "Kestrel & Finch",
    "Low Tide Books",
    "Ninth Window",
    "Orrery House",
    "Puddle Lane",
    "Tin Kite",
)
WRITERS = (
    "A. Varnholt",
    "Bea Ollander",
    "Cosmo Teague",
    "Dilys Marchmain",
    "Emeka Sund",
    "Ines Quarrell",
    "Jory Pell",
    "Yuki Ambrose",
)
_KINDS = (
    "Amber Brass Cinder Clockwork Copper Crooked Drowsy Feathered Gilded Hollow Indigo Lantern Marble "
    "Midnight Nettle Paper Quiet Rusty Salt Silver Tangled Thistle Velvet Wandering Wooden"
).split()
_THINGS = (
    "Almanac Archivists Badgers Bakery Beacon Brigade Cartographer Comet Ferry Foxes Gardeners Harbour Heron "
    "Lighthouse Locksmith Magpies Observatory Orchard Otters Parade Radio Submarine Tramway Weathervane"
).split()
_PLACES = (
    "Aldermoor Brackenholt Cindermouth Dunvale Eastmarrow Fennick Grayling Hollinmere Istermouth Jessamy "
    "Kettlewick Larkhaven Morrowfield Nether-Pool Oxbarrow"
).split()
_OPENINGS = (
    "A Map of",
    "After",
    "Before",
    "Eleven Miles to",
    "Letters from",
    "No Rain in",
    "The Night of",
    "Under",
)
_CLOSINGS = (
    "the Blue Door",
    "the Flood",
    "the Glass Hill",
    "the Last Tram",
    "the Long Frost",
    "the Ninth Bell",
    "the Old Pier",
    "the Second Moon",
    "the Slow Train",
    "the Yellow Coat",
    "Tuesday",
)


def series_names(rng: Random) -> Iterator[str]:
    """Yield names of series, none of them twice: first short names, later the same names with volume numbers."""
    plain = [f"{kind} {thing}" for kind in _KINDS for thing in _THINGS]
    placed = [f"{thing} of {place}" for thing in _THINGS for place in _PLACES]
    names = [rng.choice(("", "The ")) + name for name in plain] + placed
    rng.shuffle(names)
    yield from names
    volume = 2
    while True:
        yield from (f"{name}, volume {volume}" for name in names)
        volume += 1


def story(rng: Random) -> str:
    """Return a title for the story of one issue."""
    return f"{rng.choice(_OPENINGS)} {rng.choice(_CLOSINGS)}"

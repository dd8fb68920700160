"""Declarations: a wrong one fails in its call, with an error that names the list."""

from __future__ import annotations

import math
from typing import Any

import pytest

from flask_warmcache import DeclarationError, WarmCache
from tests.support.shelf import declare

BAD_NAMES: list[Any] = [
    "",
    ".",
    "..",
    "../files",
    "a/b",
    "a.b",
    "a b",
    "Files",
    "datei-ä",
    "files\n",
    "fi\0les",
    "%2e",
    "\udc80",
    "x" * 65,
    "x" * 1000,
    [],
    None,
    5,
    b"files",
]
GOOD_NAMES = ["a", "0", "_", "-", "enriched_file_cache", "x" * 64]


@pytest.mark.parametrize("name", BAD_NAMES, ids=repr)
def test_bad_name_is_refused_before_it_becomes_file(name: Any) -> None:
    warmcache = WarmCache()
    with pytest.raises(DeclarationError, match="cannot name a list: use 1 to 64"):
        warmcache.warm_list(name, key="path")
    for declaring in (warmcache.builder, warmcache.value, warmcache.stats_section, declare):
        with pytest.raises(DeclarationError, match="cannot name a list"):
            declaring(name)


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_good_name_is_accepted(name: str) -> None:
    assert WarmCache().warm_list(name, key="path").name == name


def test_builder_needs_no_key() -> None:
    assert declare(kind="builder", key=None).key is None


@pytest.mark.parametrize(
    ("declared", "why"),
    [
        ({"key": None}, "Warm list 'files' needs key="),
        ({"key": ""}, "has key=''"),
        ({"key": 5}, "has key=5"),
        ({"key": ("path",)}, r"has key=\('path',\)"),
        ({"unit": ""}, "has unit=''"),
        ({"unit": "File"}, "has unit='File'"),
        ({"unit": "my file"}, "has unit='my file'"),
        ({"unit": 'x"'}, "has unit="),
        ({"unit": "9s"}, "has unit='9s'"),
        ({"unit": "u" * 33}, "has unit="),
        ({"unit": "file\n"}, "has unit="),
        ({"unit": None}, "has unit=None"),
        ({"unit": "page"}, "unit='page'"),  # its plural is a key of every answer
        ({"ttl": 0}, "has ttl=0"),
        ({"ttl": -5}, "has ttl=-5"),
        ({"ttl": True}, "has ttl=True"),
        ({"ttl": "60"}, "has ttl='60'"),
        ({"ttl": math.nan}, "has ttl=nan; ttl is a number of seconds above 0, or None for never"),
        ({"filters": ["marked"]}, r"has filters=\['marked'\]; give a dict"),
        ({"filters": []}, r"has filters=\[\]; give a dict"),
        ({"filters": {"": bool}}, "has filters with the name ''"),
        ({"filters": {"a:b": bool}}, "has filters with the name 'a:b'"),
        ({"filters": {"-a": bool}}, "has filters with the name '-a'"),
        ({"filters": {"a b": bool}}, "has filters with the name 'a b'"),
        ({"filters": {'a"': bool}}, "has filters with the name"),
        ({"filters": {"x" * 65: bool}}, "has filters with the name"),
        ({"filters": {5: bool}}, "has filters with the name 5"),
        ({"filters": {"marked": "processed"}}, r"has filters\['marked'\]='processed', which is not a function"),
        ({"filters": {"all": bool}}, "declares a filter 'all'"),
        ({"sorts": "name"}, "has sorts='name'; give a dict"),
        ({"sorts": {"-name": bool}}, "has sorts with the name '-name'"),
        ({"sorts": {"name": None}}, r"has sorts\['name'\]=None"),
        ({"search": "name"}, "has search='name'; search is a tuple"),
        ({"search": ["name", ""]}, "has search="),
        ({"search": ["name", 5]}, "has search="),
        ({"search": 5}, "has search=5"),
        ({"counts": "marked"}, "counts"),
        ({"counts": 5}, "counts"),
        ({"counts": [["a"]]}, "counts"),
        ({"counts": ["marked"]}, r"counts \['marked'\], but its filters are \[\]"),
        ({"counts": ["all"]}, r"counts \['all'\]"),
        ({"unit": "per_page", "key": ""}, "has key=''"),
    ],
    ids=repr,
)
def test_wrong_declaration_fails_in_its_call_with_reason(declared: dict[str, Any], why: str) -> None:
    warmcache = WarmCache()
    with pytest.raises(DeclarationError, match=why):
        warmcache.warm_list("files", **{"key": "path", **declared})
    # The failed call leaves the name free.
    assert warmcache.warm_list("files", key="path").name == "files"


@pytest.mark.parametrize("fingerprint", ["size", 5, (5,), ("size", None)])
def test_wrong_fingerprint_is_refused(fingerprint: Any) -> None:
    with pytest.raises(DeclarationError, match="fingerprint of warm list 'files' is a tuple of field names"):
        WarmCache().warm_list("files", key="path").enrich(fingerprint=fingerprint)


@pytest.mark.parametrize(
    ("unit", "plural"),
    [
        ("file", "files"),
        ("item", "items"),
        ("entry", "entries"),
        ("day", "days"),
        ("box", "boxes"),
        ("bus", "buses"),
        ("match", "matches"),
        ("dish", "dishes"),
        ("y", "ys"),
    ],
)
def test_plural_names_items(unit: str, plural: str) -> None:
    assert declare(unit=unit).plural == plural


def test_digest_changes_only_with_what_shapes_snapshot() -> None:
    def digest(**changed: Any) -> str:
        usual = {"filters": {"a": bool, "b": bool}, "sorts": {"name": str}, "search": ("path",)}
        return declare(**{**usual, **changed}).digest

    same = {
        digest(filters={"b": bool, "a": bool}, ttl=5),
        digest(counts=("a",), unit="x"),
    }
    others = [
        declare().digest,
        digest(filters={"a": bool}),
        digest(filters={"a": bool, "b": len}),
        digest(sorts={"name": len}),
        digest(sorts={"date": str}),
        digest(search=("size",)),
        digest(version="2"),
        digest(key="id"),
        digest(kind="builder"),
    ]
    assert same == {digest()}
    assert len({digest(), *others}) == 1 + len(others)


def test_list_without_source_has_problem_with_remedy() -> None:
    assert declare(source=list).problem(["files"]) is None
    assert declare(source_list="scan").problem(["files", "scan"]) is None
    assert "add one with @files.source" in str(declare().problem(["files"]))
    assert "'scan' is not declared" in str(declare(source_list="scan").problem(["files"]))

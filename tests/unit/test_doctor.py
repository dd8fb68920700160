"""What each check of the doctor finds; tests/server runs the doctor beside a server."""

from __future__ import annotations

import json
import os
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from flask import Blueprint, Flask

from flask_warmcache import WarmCache
from flask_warmcache.doctor.examine import examine
from flask_warmcache.doctor.folder import NETWORK, check_folder, kind_of, points_in
from flask_warmcache.doctor.imports import blueprint_modules, worst_units
from flask_warmcache.doctor.processes import NoServer, Server, check_memory, find_server, gunicorn_arguments
from flask_warmcache.doctor.rebuilds import check_child, check_list
from flask_warmcache.doctor.report import FAULT, INFO, OK, WARNING, Report
from flask_warmcache.host import resources
from flask_warmcache.store.files import FileStore
from flask_warmcache.store.locks import HeldLock, try_lock
from tests.support.apps import Shop, make_app


def levels(report: Report) -> dict[str, str]:
    """Return the level of each check, by its last finding."""
    return {finding.check: finding.level for finding in report.findings}


def folder_report(folder: Path) -> Report:
    report = Report()
    check_folder(report, FileStore(folder))
    assert is_explained(report)
    return report


def doctor_json(tmp_path: Path) -> tuple[int, dict[str, Any]]:
    """Run the command; return its exit code, and the findings by their checks."""
    app = make_app(tmp_path, runner="thread")
    WarmCache(app)
    ran = app.test_cli_runner().invoke(args=["warmcache", "doctor", "--json"])
    report = json.loads(ran.output)
    assert report["exit_code"] == ran.exit_code
    return ran.exit_code, {finding["check"]: finding for finding in report["findings"]}


def is_explained(report: Report) -> bool:
    """Return whether every warning and fault says why it matters and what to do."""
    return all(finding.why and finding.do for finding in report.findings if finding.level in (WARNING, FAULT))


# Processes


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (["/venv/bin/python3", "/venv/bin/gunicorn", "-w", "4", "app:app"], ["-w", "4", "app:app"]),
        (["python3.11", "-m", "gunicorn", "app:app"], ["app:app"]),
        (["python", "-X", "dev", "-m", "gunicorn.app.wsgiapp", "app:app"], ["app:app"]),
        (["python", "/lib/gunicorn/__main__.py", "app:app"], ["app:app"]),
        (["gunicorn", "app:app"], ["app:app"]),
        (["grep", "gunicorn"], None),
        (["/bin/sh", "-c", "gunicorn", "app:app"], None),
        (["python", "manage.py", "gunicorn"], None),
        (["python", "-m", "flask", "gunicorn"], None),
        ([""], None),
    ],
)
def test_gunicorn_is_recognised_by_its_command_line(command: list[str], arguments: list[str] | None) -> None:
    assert gunicorn_arguments(command) == arguments


def test_process_that_is_not_gunicorn_is_refused() -> None:
    with pytest.raises(NoServer, match=f"Process {os.getpid()} is not a gunicorn"):
        find_server(os.getpid())


def test_without_psutil_one_finding_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "psutil"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "psutil", None)
    monkeypatch.delitem(sys.modules, "flask_warmcache.doctor.processes")
    _, found = doctor_json(tmp_path)
    assert found["server.no_psutil"]["level"] == INFO
    assert "pip install 'flask-warmcache[doctor]'" in found["server.no_psutil"]["do"]
    assert {"folder.usable", "runner.mode"} <= set(found), "the other checks run"


def test_route_with_path_of_ours_is_warning(shop: Shop) -> None:
    assert "routes.shadowed" not in levels(examine(shop.state, None))
    shop.app.add_url_rule("/api/cache/livez", "own", lambda: "own")
    report = examine(shop.state, None)
    assert levels(report)["routes.shadowed"] == WARNING and is_explained(report)


# The cache folder


def test_usable_folder_is_reported_as_usable(tmp_path: Path) -> None:
    report = folder_report(tmp_path / "cache")
    found = levels(report)
    assert (found["folder.usable"], found["folder.space"], found["folder.locks"]) == (OK, OK, OK)
    assert report.facts["folder"]["free_bytes"] > 0
    assert list((tmp_path / "cache").iterdir()) == []


def test_folder_open_to_others_is_fault(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    folder.chmod(0o777)
    report = folder_report(folder)
    assert levels(report) == {"folder.unusable": FAULT}
    assert report.findings[0].what == f"The cache folder {folder} is open to other accounts."
    assert "chmod 700" in report.findings[0].do


@pytest.mark.parametrize(
    ("kind", "check", "level"),
    [
        ("nfs4", "folder.network", FAULT),
        ("fuse.sshfs", "folder.network", FAULT),
        ("overlay", "folder.in_container", INFO),
        ("tmpfs", "folder.in_memory", INFO),
    ],
)
def test_kind_of_file_system_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, check: str, level: str
) -> None:
    monkeypatch.setattr("flask_warmcache.doctor.folder.kind_of", lambda path: kind)
    assert levels(folder_report(tmp_path / "cache"))[check] == level


def test_innermost_and_last_mount_decides_kind(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    deep = tmp_path / "a folder" / os.fsdecode(b"d\xe9ep\x0c")
    deep.mkdir(parents=True)
    escaped = str(deep.parent).replace(" ", "\\040")
    table.write_bytes(
        os.fsencode(
            "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n"
            f"2 1 0:5 / {escaped} rw shared:1 - tmpfs none rw\n"
            f"3 1 0:6 / {escaped} rw - nfs4 server:/x rw\n"
            f"4 1 0:7 / {escaped}-beside rw - cifs none rw\n"
            f"5 1 0:7 / {escaped}/{deep.name} rw - nfs4 server:/\u3000x rw\n"
        )
    )
    assert points_in(deep.parent, str(table)) == [deep.name]
    assert kind_of(deep / "not" / "there", str(table)) == "nfs4"
    assert kind_of(tmp_path, str(table)) == "ext4"
    assert kind_of(tmp_path, str(tmp_path / "nowhere")) is None
    for kind in ("ext4", "xfs", "overlay", "fuse.fuse-overlayfs", "btrfs", "tmpfs"):
        assert not NETWORK.fullmatch(kind)


def test_full_disk_is_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    assert levels(folder_report(tmp_path / "cache"))["folder.space"] == FAULT


# Lists


def built(tmp_path: Path, seconds: float, **config: Any) -> Shop:
    """Return a list that was built, with figures as if that had taken so long, mostly computing."""
    shop = Shop(tmp_path, **config)
    shop.state.rebuilder.rebuild_now("files")
    snapshot = shop.status.reader.current()
    assert snapshot is not None
    assert {"duration", "cpu_share"} <= set(snapshot.header)
    snapshot.header.update(duration=seconds, cpu_share=0.9)
    return shop


def look(shop: Shop, name: str, child_problem: str | None = None, **values: Any) -> Report:
    report = Report()
    check_list(report, shop.state.statuses[name], shop.state.settings, child_problem, values)
    assert is_explained(report)
    return report


def test_computing_in_thread_is_warning_and_in_child_is_not(tmp_path: Path) -> None:
    shop = built(tmp_path, 1.2, runner="auto")
    busy = {"max_requests": 20}
    assert levels(look(shop, "files", None, **busy)) == {"lists.built": OK}
    found = levels(look(shop, "files", "no module attribute holds the app", **busy))
    assert found["lists.computes_beside_requests"] == WARNING
    assert found["lists.max_requests"] == WARNING
    assert "lists.max_requests" not in levels(look(shop, "files", "none", max_requests=20_000))
    assert "lists.max_requests" not in levels(look(shop, "files", "none", max_requests=0))


def test_ttl_shorter_than_build_is_fault(tmp_path: Path) -> None:
    shop = built(tmp_path, 8.0)
    assert "lists.ttl" not in levels(look(shop, "files"))
    shop.status.ttl = 12
    assert levels(look(shop, "files"))["lists.ttl"] == WARNING
    shop.status.ttl = 4
    assert levels(look(shop, "files"))["lists.ttl"] == FAULT


def test_failing_filter_is_warning(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.list.declaration = shop.list.declaration.with_functions(filters={"odd": lambda item: item["odd"]})
    shop.rebuild()
    report = look(shop, "files")
    assert levels(report)["lists.view_failed"] == WARNING
    what = "files: filter odd: KeyError on 1 of 1 items, first on 'a': KeyError: 'odd'."
    assert what in [finding.what for finding in report.findings]


def test_lock_held_without_rebuild_is_fault(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.state.store.prepare()
    with closing(HeldLock(shop.state.store.lock_path("files"))) as lock:
        assert try_lock(lock.descriptor)
        report = look(shop, "files")
    assert levels(report)["lists.lock_held"] == FAULT
    assert f"held by process {os.getpid()} (" in report.findings[0].what


def test_failed_list_is_fault_and_cold_one_is_not(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    assert levels(look(shop, "files")) == {"lists.cold": INFO}
    shop.error = OSError("gone")
    with pytest.raises(OSError, match="gone"):
        shop.state.rebuilder.rebuild_now("files")
    report = look(shop, "files")
    assert levels(report) == {"lists.failed": FAULT}
    assert "OSError" in report.findings[0].what


# Runner


def test_app_that_no_child_finds_is_warning_with_setting_to_use(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    report = Report()
    effective = {"app": "no_such_module:app", "folder": str(tmp_path)}
    problem = check_child(report, shop.state, effective)
    assert problem is not None and "ModuleNotFoundError" in problem
    assert levels(report) == {"runner.no_child": WARNING}
    assert "WARMCACHE_APP" in report.findings[0].do
    assert problem in report.facts["runner"]["child"]


def test_without_server_it_is_unknown_whether_child_finds_app(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    report = Report()
    assert check_child(report, shop.state, None) is None
    assert levels(report) == {"runner.no_child": INFO}


# Imports


def test_import_time_is_summed_by_own_module_and_foreign_package() -> None:
    lines = """
import time: self [us] | cumulative | imported package
import time:       900 |        900 | gunicorn.util
import time:    100000 |     100000 |     pandas.core
import time:    200000 |     300000 |   pandas
import time:      1000 |       1000 |   shop.models
import time:     50000 |     351000 | shop.reports
something that the app prints
import time:    400000 |     400000 |   json
import time:      2000 |     402000 | shop
""".splitlines()
    units = worst_units(lines, {"shop": True, "shop.reports": True, "shop.models": True})
    assert [(unit.name, round(unit.seconds, 3), unit.imported_by) for unit in units] == [
        ("standard library", 0.4, "shop"),
        ("pandas", 0.3, "shop.reports"),
        ("shop.reports", 0.05, None),
        ("shop", 0.002, None),
        ("shop.models", 0.001, "shop.reports"),
    ]
    assert {unit.name: unit.with_imports for unit in units}["shop.reports"] == pytest.approx(0.351)


def test_blueprint_with_hooks_for_whole_app_cannot_be_deferred(tmp_path: Path) -> None:
    app = Flask("shop")
    WarmCache(app, dir=str(tmp_path / "cache"))
    free, guarding = Blueprint("free", "json"), Blueprint("guarding", __name__)
    guarding.before_app_request(lambda: None)
    app.register_blueprint(free)
    app.register_blueprint(guarding)
    deferrable, not_deferrable = blueprint_modules(app)
    assert (deferrable, not_deferrable) == ({"json"}, {__name__})


# Memory


def test_nearly_full_memory_is_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    here = Server(os.getpid(), [os.getpid()], "/", os.geteuid(), 0.0, [], {})
    report = Report()
    check_memory(report, here, preload=False)
    assert levels(report) == {"memory.workers": OK}
    (process,) = report.facts["processes"]
    assert 1 << 20 < process["uss_bytes"] <= process["pss_bytes"]
    for limit, check in ((process["pss_bytes"], "nearly_full"), (process["pss_bytes"] * 1.3, "no_room_for_child")):
        monkeypatch.setattr(resources, "memory", lambda limit=limit: int(limit))
        report = Report()
        check_memory(report, here, preload=False)
        assert levels(report)[f"memory.{check}"] == WARNING
        assert "preload_app" in report.findings[-1].do
        assert is_explained(report)


def test_worst_finding_decides_exit_code() -> None:
    report = Report()
    report.add("a", OK, "fine")
    report.add("b", INFO, "to know")
    assert report.exit_code == 0
    report.add("c", WARNING, "hm", "because", "do")
    assert report.exit_code == 1
    report.add("d", FAULT, "bad", "because", "do")
    assert report.exit_code == 2


def test_failing_check_does_not_hide_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("odd machine")

    monkeypatch.setattr("flask_warmcache.doctor.folder.check_folder", fails)
    exit_code, found = doctor_json(tmp_path)
    assert found["folder.not_checked"]["level"] == WARNING
    assert "odd machine" in found["folder.not_checked"]["what"]
    assert "runner.mode" in found
    assert exit_code == 1


def test_folder_is_not_checked_by_another_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = make_app(tmp_path, runner="thread")
    WarmCache(app)
    other = Server(os.getpid(), [os.getpid()], str(tmp_path), os.geteuid() + 1, 0.0, None, {})
    monkeypatch.setattr("flask_warmcache.doctor.processes.find_server", lambda pid: other)
    state = app.extensions["warmcache"]
    state.open()
    report = examine(state, None)
    assert levels(report)["server.other_account"] == WARNING
    assert not any(check.startswith("folder.") for check in levels(report))
    assert not (tmp_path / "cache").exists(), "a folder that this account creates could not be used by the workers"

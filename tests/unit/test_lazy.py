"""``lazy`` imports and builds an object at its first use, once, even if many threads use it at the same time."""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from flask_warmcache import LazyNotReadyError
from tests.support.late_blueprints import LateShop, forked
from tests.support.waiting import until

SERVICE = """
import threading, time
builds = []

class Service:
    def __init__(self):
        builds.append(threading.get_ident())
        time.sleep(0.05)  # other threads use it meanwhile
        self.color = "red"

    def __len__(self):
        return 3

    def __call__(self, what):
        return what + "!"

def factory():
    return {"made": True}

ready = Service()
builds.clear()
"""


def test_concurrent_first_uses_build_once(calm_shop: LateShop) -> None:
    calm_shop.write("services", SERVICE)
    service = calm_shop.warmcache.lazy("services:Service")
    assert "services" not in sys.modules
    barrier = threading.Barrier(8)

    def use(_: int) -> tuple[Any, ...]:
        barrier.wait(120)
        return service.color, len(service), service("hi"), service._get_current_object()

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(use, range(8)))
    assert {used[:3] for used in found} == {("red", 3, "hi!")}
    assert len({id(used[3]) for used in found}) == 1
    assert len(sys.modules["services"].builds) == 1
    assert isinstance(service, sys.modules["services"].Service)
    service.color = "blue"
    assert found[0][3].color == "blue"


def test_only_functions_and_classes_are_called(calm_shop: LateShop) -> None:
    calm_shop.write("services", SERVICE)
    assert calm_shop.warmcache.lazy("services:factory")["made"] is True
    assert calm_shop.warmcache.lazy("services:ready").color == "red"
    assert calm_shop.warmcache.lazy("services:ready.color") == "red"
    assert sys.modules["services"].builds == []


def test_failure_is_raised_at_each_use_and_retried(calm_shop: LateShop, caplog: pytest.LogCaptureFixture) -> None:
    calm_shop.set_up(retry_min=0.2, retry_max=0.2)
    go = calm_shop.folder / "go"
    calm_shop.write("shaky", f"""
        import os
        tries = []
        class Service:
            def __init__(self):
                tries.append(1)
                self.x = os.stat({str(go)!r})
    """)  # fmt: skip
    service = calm_shop.warmcache.lazy("shaky:Service")
    missing = calm_shop.warmcache.lazy("nowhere:Service")
    with calm_shop.app.app_context():
        for number in (1, 2):
            until(lambda: failure(service) is FileNotFoundError)
            assert len(sys.modules["shaky"].tries) == number
            until(lambda: failure(missing) is ModuleNotFoundError)
        assert caplog.text.count("warmcache.lazy_failed: shaky:Service could not be built") == 2
        go.touch()
        until(lambda: failure(service) is None)
        assert service.x.st_size == 0


def failure(service: Any) -> type[BaseException] | None:
    try:
        _ = service.x
    except Exception as error:
        return type(error)
    return None


def test_view_answers_503_during_pause(calm_shop: LateShop) -> None:
    calm_shop.set_up(retry_min=60.0, retry_max=60.0)
    calm_shop.write("broken", "import no_such_library")
    service = calm_shop.warmcache.lazy("broken:Service")
    calm_shop.app.add_url_rule("/search", "search", lambda: service.search())
    calm_shop.app.config["PROPAGATE_EXCEPTIONS"] = False
    assert calm_shop.client.get("/search").status_code == 500
    answer = calm_shop.client.get("/search")
    assert (answer.status_code, answer.mimetype) == (503, "application/json")
    assert answer.json == {"warming": False, "error": "This part of the app failed to load: ModuleNotFoundError."}
    assert 45 <= int(answer.headers["Retry-After"]) <= 75
    with pytest.raises(
        LazyNotReadyError, match="broken:Service could not be built .ModuleNotFoundError.; the next attempt"
    ):
        _ = service.x


def test_exit_during_build_is_import_error(calm_shop: LateShop) -> None:
    calm_shop.write("exits", "import sys\nsys.exit(3)")
    with pytest.raises(ImportError, match=r"exits:Service calls sys.exit\(\) while it is built"):
        _ = calm_shop.warmcache.lazy("exits:Service").x


def test_object_that_needs_itself_is_refused(calm_shop: LateShop) -> None:
    calm_shop.write("circle", "holder = []\nclass Service:\n    def __init__(self): holder[0].x")
    service = calm_shop.warmcache.lazy("circle:Service")
    __import__("circle").holder.append(service)
    with pytest.raises(RuntimeError, match="circle:Service is used by its own constructor or import"):
        _ = service.x


def test_fork_during_build_does_not_block_child(calm_shop: LateShop) -> None:
    go = calm_shop.folder / "go"
    calm_shop.write("slow", f"""
        import os, time
        parent = os.getpid()
        class Service:
            def __init__(self):
                while os.getpid() == parent and not os.path.exists({str(go)!r}):
                    time.sleep(0.01)
                self.x = 5
    """)  # fmt: skip
    service = calm_shop.warmcache.lazy("slow:Service")
    __import__("slow")
    thread = threading.Thread(target=lambda: service.x)
    thread.start()
    assert os.waitpid(forked(lambda: service.x == 5), 0)[1] == 0
    go.touch()
    thread.join(120)
    assert service.x == 5


@pytest.mark.parametrize("target", ["services", "services:", "a b:c", "services:Ser-vice", 5])
def test_wrong_target_is_refused(calm_shop: LateShop, target: str) -> None:
    with pytest.raises(ValueError, match="does not say what to import"):
        calm_shop.warmcache.lazy(target)

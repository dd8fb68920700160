"""What did the app under test answer, is that whole, and did a list ever go back to an older one?"""

from __future__ import annotations

import http.client
import json
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answer:
    """An HTTP answer, with what the app said of itself."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def pid(self) -> int:
        return int(self.headers["X-Pid"])

    @property
    def begin(self) -> float:
        return int(self.headers["X-Begin"]) / 1e9

    @property
    def end(self) -> float:
        return int(self.headers["X-End"]) / 1e9

    @property
    def app_time(self) -> float:
        return float(self.headers["X-App-Time"])

    @property
    def own_time(self) -> float:
        """As ``app_time``, without the time in which other processes had the processors."""
        return max(0.0, self.app_time - float(self.headers["X-Queued"]))

    @property
    def generation(self) -> int:
        return int(self._said("gen"), 16)

    @property
    def state(self) -> str:
        return self._said("state")

    def _said(self, what: str) -> str:
        return dict(part.strip().partition("=")[::2] for part in self.headers["X-Warmcache"].split(";"))[what]


def ask(port: int, path: str, method: str = "GET", linger: float = 0.0, timeout: float = 60.0) -> Answer:
    """Ask once, on a connection of its own that is closed at once."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(method, path, headers={"Connection": "close", "X-Linger": f"{linger}"})
        response = connection.getresponse()
        return Answer(response.status, dict(response.getheaders()), response.read())
    finally:
        connection.close()


def check_whole(answer: Answer) -> int:
    """The answer is a list of one generation, whole; returns its length."""
    assert answer.status == 200, (answer.status, answer.body[:300])
    page = answer.json
    check_items(page["files"])
    assert len(page["files"]) == page["total_files"], "the count is another generation's"
    assert page["odd_count"] == sum(item["number"] % 2 for item in page["files"])
    return len(page["files"])


def check_items(items: Sequence[dict[str, Any]]) -> None:
    """All items are of one build, and all of that build's items are there, in order."""
    versions = {item["version"] for item in items}
    assert len(versions) == 1, f"items of {len(versions)} builds in one list of {len(items)}"
    assert [item["path"] for item in items] == [f"f{number:05}" for number in range(items[0]["of"])]
    assert all(item["text"].startswith(f"{item['version']}-") for item in items)


def backwards(answers: Iterable[Answer]) -> list[tuple[Answer, Answer]]:
    """Pairs of answers of which the second began after the first was finished, yet is of an older generation."""
    newest: list[tuple[float, Answer]] = []  # by the end of the answer: the newest generation finished by then
    for answer in sorted(answers, key=lambda one: one.end):
        if not newest or answer.generation > newest[-1][1].generation:
            newest.append((answer.end, answer))
    ends = [end for end, _ in newest]
    pairs = []
    for answer in answers:
        before = bisect_right(ends, answer.begin) - 1
        if before >= 0 and newest[before][1].generation > answer.generation:
            pairs.append((newest[before][1], answer))
    return pairs

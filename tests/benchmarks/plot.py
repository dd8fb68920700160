"""Draw the latencies during a rebuild by runner, from the figures of tests/benchmarks/rebuilds.py."""

from __future__ import annotations

import math
from typing import Any
from xml.sax.saxutils import escape

WIDTH, LEFT, ROW, TOP = 760, 250, 22, 70
LEAST, MOST = 0.5e-3, 1.0  # seconds, the ends of the axis
COLOURS = {"idle": "#888888", "thread": "#d1622b", "auto": "#2f7d4f", "process": "#2b6cb0"}


def picture(latency: list[dict[str, Any]]) -> str:
    """Return an SVG with a line for each server, load and runner, from p50 (dot) to p99 (end of the bar)."""
    lines: list[str] = []
    y = TOP
    groups: dict[tuple[str, int, bool], list[dict[str, Any]]] = {}
    for row in latency:
        groups.setdefault((row["class"], row["rate"], row["one core"]), []).append(row)
    for (name, rate, one_core), rows in groups.items():
        y += 8
        title = f"{name}, {rate} requests/s{', one core' if one_core else ''}"
        lines.append(f'<text x="8" y="{y + 12}" class="group">{escape(title)}</text>')
        bars = [("idle", rows[0]["idle"])]
        for row in rows:
            bars.append((row["runner"], row.get("from its hand-over on", row["busy"])))
        for label, spread in bars:
            lines.append(bar(label, spread, y))
            y += ROW
    axis = "".join(tick(seconds, y) for seconds in (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0))
    height = y + 40
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        'aria-label="Latency of requests beside a rebuild, by runner">'
        "<style>text{font:13px sans-serif;fill:#222}.group{font-weight:bold}.axis{stroke:#ccc}"
        "@media(prefers-color-scheme:dark){text{fill:#ddd}.axis{stroke:#555}}</style>"
        '<text x="8" y="22" class="group">Latency of requests while one worker rebuilds: p50 (dot) to p99</text>'
        '<text x="8" y="42">Milliseconds, logarithmic; auto from its hand-over on. Less is better.</text>'
        f"{axis}{''.join(lines)}</svg>\n"
    )


def place(seconds: float) -> float:
    share = math.log(max(LEAST, min(MOST, seconds)) / LEAST) / math.log(MOST / LEAST)
    return LEFT + share * (WIDTH - LEFT - 60)


def bar(label: str, spread: dict[str, float], y: float) -> str:
    begin, end, middle = place(spread["p50"]), place(spread["p99"]), y + 10
    colour = COLOURS[label]
    return (
        f'<text x="{LEFT - 60}" y="{middle + 4}" text-anchor="start">{label}</text>'
        f'<line x1="{begin:.1f}" x2="{end:.1f}" y1="{middle}" y2="{middle}" stroke="{colour}" stroke-width="6"/>'
        f'<circle cx="{begin:.1f}" cy="{middle}" r="6" fill="{colour}"/>'
        f'<text x="{end + 8:.1f}" y="{middle + 4}">{spread["p99"] * 1e3:.1f}</text>'
    )


def tick(seconds: float, bottom: float) -> str:
    at = place(seconds)
    return (
        f'<line class="axis" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP - 8}" y2="{bottom}"/>'
        f'<text x="{at:.1f}" y="{bottom + 18}" text-anchor="middle">{seconds * 1e3:g}</text>'
    )

"""Draw the invented comics: a cover for each issue, and a few pages for each series."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from random import Random

from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]

WIDTH, HEIGHT = 400, 600
_DRAWN = 2  # shapes are drawn this many times larger and reduced, because Pillow's polygons have hard edges
_W, _H = WIDTH * _DRAWN, HEIGHT * _DRAWN
_PAPER: Colour = (246, 240, 228)
_INK: Colour = (24, 24, 34)

# Sky above, sky below, far, middle, near.
PALETTES = (
    ("#0f1b3d", "#f2784b", "#f9c74f", "#8d2f4f", "#1b1430"),
    ("#f6e7cb", "#f3a683", "#e15f41", "#786fa6", "#303952"),
    ("#0b3954", "#bfd7ea", "#ff6663", "#087e8b", "#0b2239"),
    ("#2d1e2f", "#e36397", "#f7b32b", "#724e91", "#1a1120"),
    ("#d8f3dc", "#74c69d", "#fefae0", "#2d6a4f", "#081c15"),
    ("#ffecd1", "#ff7d00", "#ffd166", "#15616d", "#001524"),
    ("#10002b", "#5a189a", "#e0aaff", "#9d4edd", "#240046"),
    ("#caf0f8", "#48cae4", "#fffbe6", "#0077b6", "#03045e"),
    ("#fde2e4", "#e56b6f", "#fff1e6", "#b56576", "#355070"),
    ("#1f2421", "#49a078", "#dce1de", "#216869", "#12201c"),
    ("#fff3b0", "#e09f3e", "#fffaf0", "#9e2a2b", "#540b0e"),
    ("#22223b", "#9a8c98", "#f2e9e4", "#4a4e69", "#14142b"),
)


def bases(title: str, rng: Random, how_many: int = 3) -> list[Image.Image]:
    """Draw the covers of a series, still without the number of an issue."""
    palette = [_colour(text) for text in rng.choice(PALETTES)]
    scene = rng.choice(SCENES)
    banner = rng.choice((_banner_on_top, _banner_over, _banner_below))
    drawn = []
    for _ in range(how_many):
        picture = _gradient(palette[0], palette[1], (_W, _H))
        scene(ImageDraw.Draw(picture), palette, rng)
        small = picture.reduce(_DRAWN)
        banner(small, title, palette)
        drawn.append(small)
        palette[2:4] = palette[3], palette[2]
    return drawn


def cover(base: Image.Image, number: int, year: int, rng: Random) -> Image.Image:
    """Make the cover of one issue from a base of its series: add a tint, the number and the year."""
    tint = Image.new("RGB", base.size, _colour(rng.choice(rng.choice(PALETTES)[:4])))
    picture = Image.blend(base, tint, rng.uniform(0.0, 0.22))
    draw = ImageDraw.Draw(picture)
    draw.rounded_rectangle((WIDTH - 106, 474, WIDTH - 22, 578), radius=10, fill=_PAPER)
    draw.text((WIDTH - 64, 522), str(number), _INK, _font(34 if number > 99 else 44), "mm", stroke_width=1)
    draw.text((WIDTH - 64, 560), str(year), _INK, _font(17), "mm")
    return picture


def page(rng: Random) -> Image.Image:
    """Draw one inner page, with a scene in each panel."""
    palette = [_colour(text) for text in rng.choice(PALETTES)]
    picture = Image.new("RGB", (WIDTH, HEIGHT), _PAPER)
    draw = ImageDraw.Draw(picture)
    top = 20
    for height in rng.choice(((170, 180, 180), (270, 270), (120, 300, 110), (180, 360))):
        split = rng.choice((180, 230, WIDTH - 20))
        for left, right in ((20, split), (split + 10, WIDTH - 20)):
            if right - left < 40:
                continue
            draw.rectangle((left, top, right, top + height), rng.choice(palette[:3]), _INK, 3)
            middle = (left + right) // 2 + rng.randint(-20, 20)
            size = rng.randint(22, min(60, height // 2 - 8))
            low = top + height - 3
            draw.pieslice((middle - size, low - size, middle + size, low + size), 180, 360, palette[4])
            draw.ellipse((left + 14, top + 12, left + 74, top + 40), _PAPER, _INK, 2)
        top += height + 10
    return picture


def _sunset(draw: ImageDraw.ImageDraw, palette: list[Colour], rng: Random) -> None:
    x, y, r = rng.randint(220, 580), rng.randint(440, 620), rng.randint(130, 210)
    draw.ellipse((x - r, y - r, x + r, y + r), palette[2])
    for step in range(4):
        level = 640 + step * 130
        draw.polygon(_hills(level, 90 - step * 12, rng), _mix(palette[3], palette[4], step / 3))


def _skyline(draw: ImageDraw.ImageDraw, palette: list[Colour], rng: Random) -> None:
    x, y = rng.randint(200, 600), rng.randint(330, 470)
    draw.ellipse((x - 90, y - 90, x + 90, y + 90), palette[2])
    for row in range(3):
        wall = _mix(palette[3], palette[4], row / 2)
        left = -rng.randint(0, 60)
        while left < _W:
            wide, roof = rng.randint(70, 150), rng.randint(520, 760) + row * 150
            draw.rectangle((left, roof, left + wide, _H), wall)
            for wx in range(left + 18, left + wide - 22, 34):
                for wy in range(roof + 24, _H - 20, 52):
                    if rng.random() < 0.4:
                        draw.rectangle((wx, wy, wx + 14, wy + 22), palette[2])
            left += wide + rng.randint(4, 26)


def _rings(draw: ImageDraw.ImageDraw, palette: list[Colour], rng: Random) -> None:
    x, y = rng.randint(200, 600), rng.randint(560, 860)
    for step, r in enumerate(range(620, 40, -rng.choice((58, 72, 90)))):
        draw.ellipse((x - r, y - r, x + r, y + r), palette[2 + step % 3])


def _rays(draw: ImageDraw.ImageDraw, palette: list[Colour], rng: Random) -> None:
    x, y, beams = rng.randint(250, 550), rng.randint(620, 860), rng.choice((10, 14, 18))
    turn = rng.random()
    for beam in range(beams):
        ends = [((beam + part) * math.tau / beams + turn) for part in (0.0, 0.5)]
        far = [(x + 1500 * math.cos(end), y + 1500 * math.sin(end)) for end in ends]
        draw.polygon([(x, y), *far], palette[3 if beam % 2 else 2])
    draw.ellipse((x - 170, y - 170, x + 170, y + 170), palette[4])
    draw.ellipse((x - 130, y - 130, x + 130, y + 130), palette[1])


def _peaks(draw: ImageDraw.ImageDraw, palette: list[Colour], rng: Random) -> None:
    x = rng.randint(150, 650)
    draw.ellipse((x - 80, 340, x + 80, 500), palette[2])
    for step in range(7):
        x, top, half = rng.randint(0, _W), rng.randint(500, 640) + step * 70, rng.randint(220, 360)
        draw.polygon([(x, top), (x - half, _H), (x + half, _H)], _mix(palette[3], palette[4], step / 6))
        cap = (_H - top) * 0.16
        reach = half * 0.16
        draw.polygon([(x, top), (x - reach, top + cap), (x, top + cap * 0.7), (x + reach, top + cap)], palette[2])


def _waves(draw: ImageDraw.ImageDraw, palette: list[Colour], rng: Random) -> None:
    x = rng.randint(200, 600)
    draw.polygon([(x, 480), (x, 760), (x - 150, 760)], palette[2])
    draw.polygon([(x + 14, 420), (x + 14, 760), (x + 190, 760)], _PAPER)
    draw.polygon([(x - 190, 780), (x + 220, 780), (x + 140, 850), (x - 120, 850)], palette[4])
    for step in range(6):
        draw.polygon(_hills(810 + step * 70, 34, rng, 5), _mix(palette[3], palette[4], step / 5))


def _orbits(draw: ImageDraw.ImageDraw, palette: list[Colour], rng: Random) -> None:
    for _ in range(90):
        x, y, r = rng.randrange(_W), rng.randrange(_H), rng.choice((2, 2, 3, 5))
        draw.ellipse((x - r, y - r, x + r, y + r), _PAPER)
    x, y, r = rng.randint(300, 500), rng.randint(620, 760), rng.randint(190, 250)
    for step in range(1, 4):
        wide, high = r + step * 130, (r + step * 130) * 0.32
        draw.ellipse((x - wide, y - high, x + wide, y + high), None, palette[2], 6)
        angle = rng.random() * math.tau
        px, py, pr = x + wide * math.cos(angle), y + high * math.sin(angle), 16 + step * 9
        draw.ellipse((px - pr, py - pr, px + pr, py + pr), palette[3])
    draw.ellipse((x - r, y - r, x + r, y + r), palette[4])
    draw.chord((x - r, y - r, x + r, y + r), 200, 20, palette[3])


def _tiles(draw: ImageDraw.ImageDraw, palette: list[Colour], rng: Random) -> None:
    side = rng.choice((160, 200))
    for top in range(0, _H, side):
        for left in range(0, _W, side):
            draw.rectangle((left, top, left + side, top + side), rng.choice(palette[1:4]))
            x, y = left + rng.choice((0, side)), top + rng.choice((0, side))
            start = (0 if x == left else 90) if y == top else (270 if x == left else 180)
            draw.pieslice((x - side, y - side, x + side, y + side), start, start + 90, rng.choice(palette[2:]))


def _dots(draw: ImageDraw.ImageDraw, palette: list[Colour], rng: Random) -> None:
    x, y = rng.randint(150, 650), rng.randint(500, 900)
    for row, top in enumerate(range(0, _H + 40, 44)):
        for left in range((row % 2) * 22, _W + 40, 44):
            r = max(3.0, 30 - math.hypot(left - x, top - y) / 26)
            draw.ellipse((left - r, top - r, left + r, top + r), palette[2] if r > 12 else palette[3])
    draw.regular_polygon((x, y, 210), rng.choice((3, 4, 6)), rng.randint(0, 90), palette[4])


SCENES: tuple[Callable[[ImageDraw.ImageDraw, list[Colour], Random], None], ...] = (
    _sunset,
    _skyline,
    _rings,
    _rays,
    _peaks,
    _waves,
    _orbits,
    _tiles,
    _dots,
)


def _banner_on_top(picture: Image.Image, title: str, palette: list[Colour]) -> None:
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, WIDTH, 128), _PAPER)
    draw.rectangle((0, 128, WIDTH, 135), palette[4])
    _title(draw, title, 64, _INK)


def _banner_over(picture: Image.Image, title: str, palette: list[Colour]) -> None:
    draw = ImageDraw.Draw(picture)
    draw.rounded_rectangle((24, 26, WIDTH - 24, 142), 12, palette[4])
    draw.rounded_rectangle((31, 33, WIDTH - 31, 135), 8, None, _PAPER, 2)
    _title(draw, title, 84, _PAPER, width=WIDTH - 92)


def _banner_below(picture: Image.Image, title: str, palette: list[Colour]) -> None:
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 452, WIDTH, HEIGHT), palette[4])
    _title(draw, title, 526, _PAPER, width=WIDTH - 150, left=24)


def _title(
    draw: ImageDraw.ImageDraw, title: str, middle: int, fill: Colour, *, width: int = WIDTH - 48, left: int = 0
) -> None:
    words = title.upper().split()
    half = (len(words) + 1) // 2
    text = "\n".join((" ".join(words[:half]), " ".join(words[half:]))).strip()
    size = 50
    while size > 16 and draw.multiline_textbbox((0, 0), text, _font(size), spacing=2, stroke_width=1)[2] > width:
        size -= 2
    where, anchor, align = ((left, middle), "lm", "left") if left else ((WIDTH // 2, middle), "mm", "center")
    draw.multiline_text(where, text, fill, _font(size), anchor, 2, align, stroke_width=1, stroke_fill=fill)


def _hills(level: int, rise: int, rng: Random, bumps: int = 2) -> list[tuple[float, float]]:
    shift = rng.random() * math.tau
    crest = [(x, level + rise * math.sin(shift + bumps * math.tau * x / _W)) for x in range(0, _W + 20, 20)]
    return [(0, _H), *crest, (_W, _H)]


def _gradient(above: Colour, below: Colour, size: tuple[int, int]) -> Image.Image:
    return Image.composite(
        Image.new("RGB", size, below), Image.new("RGB", size, above), Image.linear_gradient("L").resize(size)
    )


def _mix(one: Colour, other: Colour, share: float) -> Colour:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


def _colour(text: str) -> Colour:
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)


@lru_cache  # loading a font takes longer than drawing with it
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)

"""Take the README's picture of the demo: ``python docs/screenshot.py`` while ``demo/run`` reads its comics."""

from __future__ import annotations

import io
import re
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

TARGET = Path(__file__).parent / "_static" / "demo.png"
ADDRESS = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:5000/"

with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
    page = browser.new_page(viewport={"width": 1000, "height": 540}, color_scheme="light")
    page.goto(ADDRESS)
    page.get_by_text(re.compile(r"\d of [\d,]+")).first.wait_for()  # how far the rebuild is
    page.wait_for_load_state("networkidle")
    shot = page.screenshot()
    browser.close()
# 128 colours are enough for covers, and a quarter of the bytes.
Image.open(io.BytesIO(shot)).convert("RGB").quantize(128).save(TARGET, optimize=True)
print(f"{TARGET}: {TARGET.stat().st_size} bytes")

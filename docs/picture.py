"""The picture of the report in the README: `.venv/bin/python docs/picture.py build/embedded/report/report.html`."""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

HERE = Path(__file__).resolve().parent
FIGURE = "opening"
SIZE = {"width": 1200, "height": 900}
MAX_BYTES = 300_000
SCROLL = "id => document.getElementById(id).scrollIntoView({block: 'end', behavior: 'instant'})"


def shoot(page_file, folder=HERE):
    """Writes `report.png` and `report.ja.png`, the page at its opening figure, in either language."""
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for lang, name in (("en", "report.png"), ("ja", "report.ja.png")):
            page = browser.new_page(viewport=SIZE, color_scheme="light", reduced_motion="reduce")
            page.goto(Path(page_file).resolve().as_uri())
            page.click(f"button[data-set-lang={lang}]")
            page.locator(f"#fig-{FIGURE}-{lang} canvas, #fig-{FIGURE}-{lang} svg").first.wait_for()
            page.evaluate(SCROLL, f"fig-{FIGURE}-{lang}")
            page.wait_for_timeout(500)
            page.screenshot(path=folder / name)
            page.close()
            size = (folder / name).stat().st_size
            if size > MAX_BYTES:
                sys.exit(f"error: {name}: {size:,} bytes, allowed: {MAX_BYTES:,}")
        browser.close()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python docs/picture.py REPORT_HTML")
    shoot(sys.argv[1])

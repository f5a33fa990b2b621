"""How the page behaves in a reader's browser: layout shift, first chart, longest task, language switch, tab stops; and
how many tokens a second the playground writes.

`python -m report.loading build/embedded/report/report.html` prints the figures, measured in headless Chromium, or says
that no browser is installed. Task and switch are counted in the main thread's own time, which other work on the
machine leaves alone: at a quarter of the speed a task takes four times as long.
"""

import argparse
import contextlib
import json
import shutil
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypedDict

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SLOWNESS = 4
LOADS, SWITCHES = 3, 6

# Runs before the page's own scripts; a chart counts from the frame in which its drawing has a size. The browser says so
# when it has laid the page out: asking for the size would have it lay the page out once more, in a task of its own.
OBSERVE = """
window.loading = {shift: 0, chart: null};
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.loading.shift += entry.value;
}).observe({type: 'layout-shift', buffered: true});
const sizes = new ResizeObserver((entries) => {
  if (entries.some((entry) => entry.contentRect.height > 0)) {
    window.loading.chart = performance.now();
    sizes.disconnect();
  }
});
(function look() {
  if (window.loading.chart !== null) return;
  for (const drawing of document.querySelectorAll('.plot svg')) sizes.observe(drawing);
  requestAnimationFrame(look);
})();
"""
SWITCH = """() => new Promise((resolve) => {
  document.querySelector('[data-set-lang][aria-pressed=false]').click();
  requestAnimationFrame(() => setTimeout(resolve));
})"""
TAB_STOPS = """() => [...document.querySelectorAll('a[href], button, input, summary, [tabindex]')]
  .filter((node) => node.tabIndex >= 0 && node.checkVisibility()).length"""


class Loading(TypedDict):
    """layout_shift: without unit; first_chart_ms: at full speed; longest_task_ms: at a quarter of it."""

    layout_shift: float
    first_chart_ms: float
    longest_task_ms: float
    switch_ms: float
    tab_stops: int
    megabytes: float


def browser() -> str | None:
    """The path of a Chromium here, or None."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


@contextlib.contextmanager
def opened() -> Iterator[Any]:
    """Headless Chromium; None where it, or what drives it, is not installed."""
    program = browser()
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        program = None
    if program is None:
        yield None
        return
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def typed(page_file: Path) -> float | None:
    """Tokens a second that the playground writes when it continues its first text, both models together, by its own
    clock; None as in `measure`."""
    with opened() as chromium:
        if chromium is None:
            return None
        page = chromium.new_page(locale="en-US")
        page.goto(page_file.resolve().as_uri())
        page.locator("#go-on").click()
        page.locator("#speed:not(:empty)").wait_for(timeout=300_000)
        return float(page.locator("#speed").inner_text().split(" ")[0].replace(",", ""))


def measure(page_file: Path) -> Loading | None:
    """The figures of a page, medians of several loads and switches; None where no browser, or nothing to drive one
    with, is installed."""
    with opened() as chromium:
        if chromium is None:
            return None

        def load(page: Any) -> None:
            page.goto(page_file.resolve().as_uri(), wait_until="load")
            page.wait_for_timeout(800)

        shifts, charts, tasks = [], [], []
        for left in reversed(range(LOADS)):
            page = chromium.new_page(viewport={"width": 1280, "height": 900}, locale="en-US")
            page.add_init_script(OBSERVE)
            tasks.append(max(main_thread(chromium, page, load)))
            seen = page.evaluate("window.loading")
            shifts.append(seen["shift"])
            charts.append(seen["chart"])
            if left:
                page.close()
        switches = [sum(main_thread(chromium, page, lambda page: page.evaluate(SWITCH))) for _ in range(SWITCHES)]
        stops = page.evaluate(TAB_STOPS)
    return {
        "layout_shift": max(shifts),
        "first_chart_ms": statistics.median(charts),
        "longest_task_ms": SLOWNESS * statistics.median(tasks),
        "switch_ms": statistics.median(switches),
        "tab_stops": stops,
        "megabytes": page_file.stat().st_size / 1e6,
    }


def main_thread(chromium: Any, page: Any, action: Callable[[Any], object]) -> list[float]:
    """Milliseconds that each task of the page's main thread took of that thread's time while `action` ran.

    The page leaves a mark that tells its thread: the browser may have other pages, of its own.
    """
    chromium.start_tracing(page=page, categories=["toplevel", "blink.user_timing"])
    action(page)
    page.evaluate("() => { performance.mark('measured here') }")
    events = json.loads(chromium.stop_tracing())["traceEvents"]
    main = {(e["pid"], e["tid"]) for e in events if e["name"] == "measured here"}
    tasks = [e for e in events if e["name"].endswith("RunTask") and (e["pid"], e["tid"]) in main]
    return [event.get("tdur", 0) / 1000 for event in tasks]


def line(loading: Loading) -> str:
    """The figures in one line."""
    return (
        f"page: layout shift {loading['layout_shift']:.3f}, first chart {loading['first_chart_ms']:.0f} ms,"
        f" longest task at a quarter of the speed {loading['longest_task_ms']:.0f} ms,"
        f" language switch {loading['switch_ms']:.0f} ms, {loading['tab_stops']} tab stops,"
        f" {loading['megabytes']:.2f} MB"
    )


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m report.loading", description=__doc__.splitlines()[0])
    parser.add_argument("page", type=Path, help="report.html")
    args = parser.parse_args(words)
    if not args.page.is_file():
        sys.exit(f"error: {args.page}: not there; make it with `make report`")
    loading = measure(args.page)
    print(line(loading) if loading else "the page's loading was not measured: no Chromium is installed")


if __name__ == "__main__":
    main()

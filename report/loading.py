"""How the page behaves in a reader's browser: layout shift, first chart, longest task, language switch, tab stops.

`python -m report.loading build/embedded/report/report.html` prints the figures, measured in headless Chromium with the
processor slowed to a quarter, or says that no browser is installed.
"""

import argparse
import shutil
import sys
from pathlib import Path
from typing import TypedDict

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
THROTTLE = 4

# Runs before the page's own scripts; a chart counts from the frame in which its drawing has a size.
OBSERVE = """
window.loading = {shift: 0, longest: 0, chart: null};
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.loading.shift += entry.value;
}).observe({type: 'layout-shift', buffered: true});
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) window.loading.longest = Math.max(window.loading.longest, entry.duration);
}).observe({type: 'longtask', buffered: true});
(function look() {
  const drawn = [...document.querySelectorAll('.plot svg')].some((svg) => svg.getBoundingClientRect().height > 0);
  if (drawn) window.loading.chart = performance.now(); else requestAnimationFrame(look);
})();
"""
SWITCH = """() => new Promise((resolve) => {
  const other = document.querySelector('[data-set-lang][aria-pressed=false]');
  const start = performance.now();
  other.click();
  document.body.getBoundingClientRect();
  requestAnimationFrame(() => setTimeout(() => resolve(performance.now() - start)));
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


def measure(page_file: Path) -> Loading | None:
    """The figures of a page; None where no browser, or nothing to drive one with, is installed."""
    program = browser()
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None
    if program is None:
        return None
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        found = {}
        for factor in (1, THROTTLE):
            page = chromium.new_page(viewport={"width": 1280, "height": 900}, locale="en-US")
            page.context.new_cdp_session(page).send("Emulation.setCPUThrottlingRate", {"rate": factor})
            page.add_init_script(OBSERVE)
            page.goto(page_file.resolve().as_uri(), wait_until="load")
            page.wait_for_timeout(800)
            found[factor] = page.evaluate("window.loading")
            if factor == 1:
                switch = min(page.evaluate(SWITCH) for _ in range(3))
                stops = page.evaluate(TAB_STOPS)
            page.close()
        chromium.close()
    return {
        "layout_shift": max(seen["shift"] for seen in found.values()),
        "first_chart_ms": found[1]["chart"],
        "longest_task_ms": found[THROTTLE]["longest"],
        "switch_ms": switch,
        "tab_stops": stops,
        "megabytes": page_file.stat().st_size / 1e6,
    }


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

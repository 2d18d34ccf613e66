"""How long the page of ``forge ui`` takes from an action to the frame that shows its effect.

    python benchmarks/ui_interaction.py                  # 1,000 runs of 10,000 points each
    python benchmarks/ui_interaction.py --root DIR       # runs that are there

Needs Chromium or Chrome, and playwright. Times are taken in the page, with ``performance.now``
around the action and the second frame after its effect is in the document; answers of the server
are part of them. Each action is done several times; printed are minimum, median and maximum.
Runs are opened and compared in two ways: from the table, as a person does, whose pointer rests on a
link for a fifth of a second before the click, or who selects runs one by one, five a second; and by
a link, to runs of which nothing was read before.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from browser import Watched, headless_browser
from ui_runs import make_runs

TIMED = """
async ([act, done]) => {
  const frame = () => new Promise(resolve => requestAnimationFrame(resolve));
  const isDone = new Function(`return (${done})`), start = performance.now();
  new Function(act)();
  while (!isDone()) {
    await frame();
    if (performance.now() - start > 20000) throw new Error(`never: ${done}`);
  }
  await frame();
  await frame();
  return performance.now() - start;
}
"""
FILTER = "const box = document.querySelector('input[type=search]'); box.value = '{}';"
TYPED = " box.dispatchEvent(new Event('input', {bubbles: true}));"
CHARTS = (
    "document.querySelectorAll('.chart canvas').length >= 4 && "
    "[...document.querySelectorAll('.chart')].every(chart => chart.hidden || "
    "chart.querySelector('canvas') || chart.getBoundingClientRect().top >= innerHeight)"
)
FULL = "document.querySelectorAll('.legend .value').length"
SORTER = "[...document.querySelectorAll('th button')].find(b => b.textContent.startsWith('{}'))"
BUTTON = "[...document.querySelectorAll('.bar button')].find(b => b.textContent.startsWith('{}'))"
TABLE = ("location.hash = '#/runs'", "document.querySelector('table.runs a')")
SMOOTHED = (
    "const range = document.querySelector('input[type=range]'); range.value = 9;"
    "range.dispatchEvent(new Event('input'))"
)
DRAGGED = """
const over = document.querySelector('.chart .u-over'), box = over.getBoundingClientRect();
const at = (type, x, target = over) => target.dispatchEvent(new MouseEvent(type, {
  clientX: box.left + x * box.width, clientY: box.top + 50, bubbles: true, button: 0,
  movementX: 1}));
at('mousemove', FROM); at('mousedown', FROM); at('mousemove', TO); at('mouseup', TO, document);
"""


def measure(page: Any, act: str, done: str) -> float:
    """Return how many milliseconds an action took."""
    return float(page.evaluate(TIMED, [act, done]))


def interactions(page: Any, ids: list[str], times: int) -> dict[str, list[float]]:
    """Do everything several times; return milliseconds by action."""
    found: dict[str, list[float]] = {}

    def timed(name: str, act: str, done: str) -> None:
        found.setdefault(name, []).append(measure(page, act, done))

    count = "document.querySelector('.bar .faint').textContent"
    for turn in range(times):
        run, linked, *six = ids[turn * 8 : turn * 8 + 8]
        chosen, others = six[:3], six[3:]
        timed("to the table", *TABLE)
        word = f"{run[-3:]}"
        timed("filter", FILTER.format(word) + TYPED, f"{count}.includes(' of ')")
        timed("filter undone", FILTER.format("") + TYPED, f"!{count}.includes(' of ')")
        for column in ("best loss", "started"):
            button = SORTER.format(column)
            timed("sort", f"{button}.click()", f"{button}.parentElement.ariaSort !== null")
        place = 31 * 100 * (turn % 9 + 1)
        timed("scroll", f"document.querySelector('.scroll').scrollTop = {place}", "true")
        shown = f"{CHARTS} && {FULL} >= 7"
        timed("open by a link", f"location.hash = '#/run/{linked}'", shown)
        link = _rest_on(page, run)
        timed("open a run", f"{link}.click()", shown)
        measure(page, *TABLE)
        timed("open a run again", f"location.hash = '#/run/{run}'", shown)
        move = DRAGGED.replace("FROM", "0.2").replace("TO", "0.6")
        timed("zoom", move, "location.hash.includes('zoom')")
        timed(
            "zoom undone",
            "document.querySelector('.bar button').click()",
            "!location.hash.includes('zoom')",
        )
        timed("smoothing", SMOOTHED, "location.hash.includes('smooth')")
        compared = f"{CHARTS} && {FULL} >= 21"
        _select(page, chosen)
        timed("compare three runs", BUTTON.format("Compare") + ".click()", compared)
        measure(page, *TABLE)
        query = "&".join(f"run={item}" for item in others)
        timed("compare by a link", f"location.hash = '#/compare?{query}'", compared)
    return found


def _rest_on(page: Any, run: str) -> str:
    """Let the pointer rest on a run's link in the table; return the link."""
    measure(page, *TABLE)
    link = f"document.querySelector('table.runs a[href=\"#/run/{run}\"]')"
    measure(page, FILTER.format(run) + TYPED, link)
    page.evaluate(f"{link}.dispatchEvent(new PointerEvent('pointerenter'))")
    page.wait_for_timeout(200)
    return link


def _select(page: Any, ids: list[str]) -> None:
    """Select runs, and no others, in the table."""
    measure(page, *TABLE)
    page.evaluate(f"{BUTTON.format('Clear')}.click()")
    for item in ids:
        box = f"document.querySelector('input[aria-label=\"Select {item}\"]')"
        measure(page, FILTER.format(item) + TYPED, box)
        page.evaluate(f"{box}.click()")
        page.wait_for_timeout(200)
    measure(page, FILTER.format("") + TYPED, "true")


def main() -> None:
    """Serve the runs, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--points", type=int, default=10_000)
    parser.add_argument("--times", type=int, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = options.root or Path(folder)
        if options.root is None:
            make_runs(root, options.runs, points=options.points)
        command = [sys.executable, "-m", "llmforge", "ui", "--no-open", "--port", "0"]
        server = subprocess.Popen(
            [*command, "--root", str(root)], stderr=subprocess.PIPE, text=True
        )
        try:
            assert server.stderr is not None
            address = re.search(r"http://[\d.:]+", server.stderr.readline())
            assert address is not None
            with headless_browser() as browser:
                page = Watched(browser).page
                page.goto(address[0].rstrip(":;"))
                page.wait_for_selector("table.runs tbody a", timeout=60_000)
                ids = sorted(path.name for path in root.glob("single_*"))
                print(f"{len(ids)} runs, milliseconds: minimum, median, maximum of {options.times}")
                for name, times in interactions(page, ids, options.times).items():
                    middle = statistics.median(times)
                    print(f"{name:24}{min(times):8.0f}{middle:8.0f}{max(times):8.0f}")
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()

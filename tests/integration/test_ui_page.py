"""The page of ``forge ui`` in a real browser, against the server as a process."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from browser import Watched, headless_browser
from ui_runs import add_samples, make_run, make_runs, make_sweep

from llmforge.rundir import RunDirectory, RunLock
from llmforge.rundir.record import read_record, write_record

HOSTILE = "<img src=x onerror=\"document.title='broken'\"></script><b>x</b>"
SECONDS = 30_000
"""For what the page shows in the end, in milliseconds: machines of tests are slow."""


@contextmanager
def ui(root: Path, *options: str, **environment: str) -> Iterator[str]:
    """Run ``forge ui`` and yield its address; it has to end well."""
    command = [sys.executable, "-m", "llmforge", "ui", "--no-open", "--port", "0"]
    process = subprocess.Popen(
        [*command, "--root", str(root), *options],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "200", **environment},
    )
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        found = re.search(r"http://[\w.:\[\]]+", line)
        assert found, line + process.stderr.read()
        yield found[0].rstrip(";")
    finally:
        process.send_signal(signal.SIGTERM)
        rest = process.communicate(timeout=30)[1]
        assert process.returncode == 0, rest


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Start one browser for all tests."""
    with headless_browser() as found:
        yield found


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return runs, one of them hostile, and a sweep."""
    base = tmp_path_factory.mktemp("page")
    make_runs(base, 40, points=120)
    hostile = make_run(
        base, "hostile", points=20, name=HOSTILE, tags=[HOSTILE], exit_reason=HOSTILE,
        notices=[HOSTILE],
    )  # fmt: skip
    add_samples(hostile, {10: HOSTILE, 200: HOSTILE}, prompt=HOSTILE)
    (hostile.path / "log.txt").write_text(HOSTILE + "\n")
    make_sweep(base, trials=12)
    return base


@pytest.fixture(scope="module")
def address(root: Path) -> Iterator[str]:
    """Serve the runs."""
    with ui(root) as found:
        yield found


@pytest.fixture
def watched(browser: Any, address: str) -> Iterator[Watched]:
    """Open a page; it must have asked nobody else, and nothing may have gone wrong."""
    found = Watched(browser)
    yield found
    found.context.close()
    foreign = [url for url in found.requests if not url.startswith((address, "blob:", "data:"))]
    assert not foreign
    assert not found.problems


def wait_for(page: Any, condition: str, *arguments: Any) -> None:
    """Wait until a JavaScript condition holds."""
    page.wait_for_function(condition, arg=list(arguments), timeout=SECONDS)


def ids_in_sight(page: Any) -> list[str]:
    """Return the runs that the table shows."""
    found: list[str] = page.eval_on_selector_all(
        "table.runs tbody .name a", "links => links.map(link => link.textContent)"
    )
    return found


def test_the_table_is_filtered_sorted_and_driven_by_keys(watched: Watched, address: str) -> None:
    page = watched.page
    page.goto(address)
    page.wait_for_selector("table.runs tbody a", timeout=SECONDS)
    assert page.get_by_text("41 runs").is_visible()
    page.keyboard.press("/")
    page.keyboard.type("state=failed optimizer.adamw.lr>=2e-3")
    wait_for(page, "() => document.querySelector('.bar .faint').textContent === '6 of 41 runs'")
    assert all("lr2e-03" in run for run in ids_in_sight(page))
    assert "q=state" in page.url
    page.reload()  # the link holds the view
    page.wait_for_selector("table.runs tbody a", timeout=SECONDS)
    assert len(ids_in_sight(page)) == 6
    page.get_by_role("button", name="best loss").click()
    shown = page.locator("th[aria-sort=ascending]").inner_text()
    assert shown.startswith("best loss")
    page.locator("h1, table.runs").first.click(position={"x": 5, "y": 5})
    for key in ("j", "x", "j", "x", "j", "k"):
        page.keyboard.press(key)
    assert page.locator("#chosen-count").inner_text() == "2"
    page.keyboard.press("c")
    page.wait_for_selector("h1:has-text('2 runs compared')", timeout=SECONDS)
    page.keyboard.press("?")
    assert page.get_by_role("dialog").get_by_text("compare the selected runs").is_visible()


def test_three_runs_lie_over_each_other_and_a_zoom_is_in_the_link(
    watched: Watched, address: str, root: Path
) -> None:
    page = watched.page
    ids = sorted(path.name for path in root.glob("single_*"))[:3]
    page.goto(f"{address}/#/compare?" + "&".join(f"run={run}" for run in ids))
    page.wait_for_selector(".chart canvas", timeout=SECONDS)
    wait_for(page, "() => document.querySelector('.legend').children.length === 6")
    box = page.locator(".chart .u-over").first.bounding_box()
    page.mouse.move(box["x"] + 60, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + 200, box["y"] + 60, steps=4)
    page.mouse.up()
    wait_for(page, "() => location.hash.includes('zoom=')")
    assert page.get_by_role("button", name="Reset zoom").is_enabled()
    page.get_by_role("button", name="Reset zoom").click()
    wait_for(page, "() => !location.hash.includes('zoom=')")
    assert page.get_by_role("rowheader", name="best val/loss").is_visible()
    assert page.get_by_role("rowheader", name="train.batch_size").count() <= 1


def test_a_run_in_training_grows_on_the_page_and_ends_there(browser: Any, tmp_path: Path) -> None:
    directory = make_run(tmp_path, "live", points=30, state="running", total_steps=1000)
    with RunLock(tmp_path, "live"), ui(tmp_path) as address:
        found = Watched(browser)
        page = found.page
        page.goto(f"{address}/#/run/live")
        page.wait_for_selector(".chart canvas", timeout=SECONDS)
        page.wait_for_selector("#connection.is-live", timeout=SECONDS)
        assert page.locator(".title .state").inner_text() == "running"
        append_rows(directory, first=310, value=1.2345)
        wait_for(page, "() => document.querySelector('.legend').textContent.includes('1.2345')")
        page.get_by_role("tab", name="Log").click()
        with (directory.path / "log.txt").open("a") as log:
            log.write("a line that comes later\n")
        page.get_by_text("a line that comes later").wait_for(timeout=SECONDS)
        record = read_record(directory)
        record.state, record.exit_reason = "interrupted", "stopped by Ctrl-C"
        write_record(directory, record)
        page.get_by_text("stopped by Ctrl-C").first.wait_for(timeout=SECONDS)
        found.context.close()
        assert not found.problems


def test_curves_are_asked_for_once_and_again_when_the_run_changed(
    browser: Any, tmp_path: Path
) -> None:
    same, grown = (make_run(tmp_path, name, points=30) for name in ("same", "grown"))
    with ui(tmp_path) as address:
        found = Watched(browser)
        page = found.page

        def asked(directory: RunDirectory) -> int:
            return sum(f"/{directory.id}/curves?" in url for url in found.requests)

        page.goto(address)
        for directory in (same, grown):
            with page.expect_response(re.compile("/curves[?]"), timeout=SECONDS):
                page.get_by_label(f"Select {directory.id}").check(timeout=SECONDS)
        assert (asked(same), asked(grown)) == (1, 1)
        append_rows(grown, first=310, value=1.2345)
        record = read_record(grown)
        record.state = "interrupted"
        write_record(grown, record)
        page.locator("table.runs .state.interrupted").wait_for(timeout=SECONDS)
        page.get_by_role("button", name="Compare").click()
        wait_for(page, "() => document.querySelector('.legend')?.textContent.includes('1.2345')")
        assert (asked(same), asked(grown)) == (1, 2)
        page.go_back()
        page.locator("table.runs").wait_for(timeout=SECONDS)
        page.go_forward()
        wait_for(page, "() => document.querySelector('.legend')?.textContent.includes('1.2345')")
        assert (asked(same), asked(grown)) == (1, 2)
        found.context.close()
        assert not found.problems


def append_rows(directory: RunDirectory, *, first: int, value: float) -> None:
    """Write three more rows, as training does."""
    with directory.metrics.open("a") as metrics, directory.timing.open("a") as timing:
        for step in range(first, first + 30, 10):
            row = {"step": step, "tokens_seen": step * 2048, "train/loss": value}
            metrics.write(json.dumps(row) + "\n")
            timing.write(json.dumps({"step": step, "seconds": 0.8}) + "\n")


def test_text_of_a_run_is_never_markup(watched: Watched, address: str) -> None:
    page = watched.page
    page.goto(f"{address}/#/runs?columns=name,tags,exit_reason&q=hostile")
    page.wait_for_selector("table.runs tbody a", timeout=SECONDS)
    assert HOSTILE in page.locator("table.runs tbody").inner_text()
    for tab in ("facts", "samples", "log", "recipe", "checkpoints", "tests"):
        page.goto(f"{address}/#/run/hostile?tab={tab}")
        page.wait_for_selector("[role=tabpanel] > *", timeout=SECONDS)
    page.goto(f"{address}/#/run/hostile?tab=samples")
    page.get_by_text(HOSTILE).first.wait_for(timeout=SECONDS)
    page.goto(f"{address}/#/compare?run=hostile")
    page.wait_for_selector(".chart canvas", timeout=SECONDS)
    assert page.locator("main img, main b").count() == 0
    assert "broken" not in page.title()


def test_a_sweep_is_brushed_and_its_best_trial_named(watched: Watched, address: str) -> None:
    page = watched.page
    page.goto(f"{address}/#/sweeps")
    page.get_by_role("link", name="wikitext_tiny_sweep").click(timeout=SECONDS)
    page.get_by_text("12 trials", exact=True).wait_for(timeout=SECONDS)
    assert page.get_by_role("heading", name="Best trial").is_visible()
    box = page.locator(".parallel canvas").bounding_box()
    last = box["x"] + box["width"] - 70
    page.mouse.move(last, box["y"] + box["height"] - 26)
    page.mouse.down()
    page.mouse.move(last, box["y"] + box["height"] - 100, steps=4)
    page.mouse.up()
    wait_for(
        page,
        "() => /^[0-9]+ of 12 trials$/.test(document.querySelector('.bar .faint').textContent)",
    )
    assert page.get_by_role("cell", name="★").count() == 1


def test_an_exported_comparison_opens_without_a_server(
    watched: Watched, address: str, root: Path, tmp_path: Path, browser: Any
) -> None:
    page = watched.page
    ids = sorted(path.name for path in root.glob("single_*"))[:2]
    page.goto(f"{address}/#/compare?run={ids[0]}&run={ids[1]}&x=tokens")
    page.wait_for_selector(".chart canvas", timeout=SECONDS)
    with page.expect_download() as download:
        page.get_by_role("button", name="Export").click()
    saved = tmp_path / "page.html"
    download.value.save_as(saved)
    alone = Watched(browser, offline=True)
    alone.page.goto(saved.as_uri())
    alone.page.wait_for_selector(".chart canvas", timeout=SECONDS)
    assert alone.page.locator("select").first.input_value() == "tokens"
    wait_for(alone.page, "() => document.querySelector('.legend').children.length === 4")
    alone.page.get_by_role("link", name="Runs").click()
    wait_for(alone.page, "() => document.querySelectorAll('table.runs tbody a').length === 2")
    alone.context.close()
    assert not alone.problems
    assert all(url.startswith(("file:", "data:")) for url in alone.requests)


def test_the_page_asks_for_the_token_and_shows_nothing_before(browser: Any, root: Path) -> None:
    options = ("--token-env", "UI_TOKEN")
    with ui(root, *options, UI_TOKEN="s3cret-token") as address:
        found = Watched(browser)
        page = found.page
        page.goto(address)
        for tried in ("wrong", "s3cret-token"):
            page.locator("#token").fill(tried, timeout=SECONDS)
            page.get_by_role("button", name="Continue").click()
        page.wait_for_selector("table.runs tbody a", timeout=SECONDS)
        assert "s3cret-token" not in "".join(found.requests)
        found.context.close()


@pytest.mark.parametrize("view", ["runs", "run", "compare", "sweep"])
def test_no_view_is_wider_than_a_phone(browser: Any, address: str, root: Path, view: str) -> None:
    runs = sorted(path.name for path in root.glob("single_*"))[:2]
    (sweep,) = [path.name for path in (root / "sweeps").iterdir()]
    hashes = {
        "runs": "/runs",
        "run": f"/run/{runs[0]}",
        "compare": f"/compare?run={runs[0]}&run={runs[1]}",
        "sweep": f"/sweep/{sweep}",
    }
    found = Watched(browser, viewport={"width": 360, "height": 740}, color_scheme="dark")
    found.page.goto(f"{address}/#{hashes[view]}")
    found.page.wait_for_selector("table td, canvas", timeout=SECONDS)
    wide = found.page.evaluate(
        "() => [document.documentElement, document.querySelector('main')]"
        ".map(element => element.scrollWidth - element.clientWidth)"
    )
    found.context.close()
    assert wide == [0, 0]
    assert not found.problems

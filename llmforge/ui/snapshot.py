"""A view as one HTML file: the page with its scripts, and the answers it would ask for."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any
from urllib.parse import quote

from llmforge.errors import UsageError
from llmforge.strict_json import strict_json
from llmforge.ui.answers import Answers

POINTS = 1_500
"""Of each curve: enough for a wide screen, and a file that can be mailed."""

_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline' data:; "
    "img-src data:; base-uri 'none'; form-action 'none'"
)
_IMPORT = re.compile(r"""(?<=from ")\./(?=[\w-]+\.js")""")
_STYLE = re.compile(r'<link rel="stylesheet" href="static/([\w./-]+)">')
_SCRIPT = re.compile(r'<script defer src="static/([\w./-]+)"></script>')
_MODULE = re.compile(r'<script type="module" src="static/([\w./-]+)"></script>')
_ICON = re.compile(r'<link rel="icon" [^>]*href="static/([\w./-]+)">')


def static_folder() -> Traversable:
    """Return where the page's files are."""
    return files("llmforge.ui").joinpath("static")


def as_page(
    answers: Answers, *, runs: Sequence[str] = (), sweep: str | None = None, view: str = ""
) -> str:
    """Return a page that needs no server and asks nobody anything.

    Args:
        answers: about the runs.
        runs: ids of the runs on it; several are compared.
        sweep: id of a sweep on it, with its trials.
        view: what it shows first, as the address of the page has it after ``#``; empty: the run,
            the comparison or the sweep.

    Raises:
        UsageError: neither a run nor a sweep is named.
        ForgeError: one of them is not there, or cannot be read.
    """
    if not runs and sweep is None:
        raise UsageError("a page needs a run or a sweep", remedy="forge ui export RUN -o page.html")
    content = {
        "view": view or _first_view(runs, sweep),
        "answers": dict(_asked(answers, list(dict.fromkeys(runs)), sweep)),
    }
    data = strict_json(content).replace("<", "\\u003c")
    policy = f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    page = _text("index.html").replace('<meta charset="utf-8">', f'<meta charset="utf-8">{policy}')
    page = _ICON.sub("", page)
    page = _STYLE.sub(lambda found: f"<style>{_text(found[1])}</style>", page)
    page = _SCRIPT.sub(lambda found: f"<script>{_text(found[1])}</script>", page)
    return _MODULE.sub(lambda found: _modules(found[1], data), page)


def key_of(path: str, *names: str) -> str:
    """Return the address of an answer as the page's scripts write it."""
    return path.format(*(quote(name, safe="!'()*") for name in names))


def _asked(answers: Answers, runs: list[str], sweep: str | None) -> Iterator[tuple[str, Any]]:
    yield "api/status", {**answers.status(), "root": ""}
    yield "api/runs", answers.runs(set(runs))
    for run in runs:
        base = key_of("api/runs/{}", run)
        yield base, answers.run(run)
        yield f"{base}/curves", answers.curves(run, points=POINTS)
        for part in ("checkpoints", "samples", "tests", "recipe", "log"):
            yield f"{base}/{part}", getattr(answers, part)(run)
    yield "api/compare", answers.compare(runs)
    known = (
        []
        if sweep is None
        else [item for item in answers.sweeps()["sweeps"] if item["id"] == sweep]
    )
    yield "api/sweeps", {"sweeps": known}
    if sweep is not None:
        yield key_of("api/sweeps/{}", sweep), answers.sweep(sweep)


def _first_view(runs: Sequence[str], sweep: str | None) -> str:
    if not runs:
        return key_of("/sweep/{}", sweep or "")
    if len(runs) == 1:
        return key_of("/run/{}", runs[0])
    return "/compare?" + "&".join(key_of("run={}", run) for run in runs)


def _modules(first: str, data: str) -> str:
    """Return the scripts within the page: an import map knows them by name."""
    names = [item.name for item in static_folder().iterdir() if item.name.endswith(".js")]
    addresses = {
        f"forge/{name}": "data:text/javascript;base64,"
        + base64.b64encode(_IMPORT.sub("forge/", _text(name)).encode()).decode()
        for name in sorted(names)
    }
    return (
        f'<script type="application/json" id="snapshot">{data}</script>\n'
        f'<script type="importmap">{strict_json({"imports": addresses})}</script>\n'
        f'<script type="module">import "forge/{first}";</script>'
    )


def _text(name: str) -> str:
    return static_folder().joinpath(name).read_text(encoding="utf-8")

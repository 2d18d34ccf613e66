"""Writes ``docs/captured``: real output and pictures of real runs, for the pages to show.

``python docs/captures.py`` works in a temporary directory. It trains ``wikitext_tiny`` on the
bundled sample, sweeps ``wikitext_tiny_sweep``, and builds the package of *The first plugin* and
trains with it: a few minutes on two cores. It keeps what the commands print, apart from the
directory, and the pictures they draw, with fewer colours so that they are small. Names of parts
(``training``, ``sweep``, ``plugin``, ``page``) do only these; ``page`` needs Chromium.
"""

from __future__ import annotations

import base64
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

DOCS = Path(__file__).parent
CAPTURED = DOCS / "captured"
FORGE = Path(sys.executable).with_name("forge")

TESTS = "--tests prompts.jsonl"
CHAT = """extends = "alpaca_custom_tiny"
[run]
id = "chat"
[model.transformer]
preset = "nano"
context = 128
[train]
max_steps = 300
[optimizer.adamw]
lr = 2e-3
[metric]
names = ["chrf", "exact_match"]
max_new_tokens = 40
[generation]
prompts = []
tests = "prompts.jsonl"
"""

COLOURS = 48
"""Of a picture's palette: enough for lines, their soft edges and the scale of a colour bar."""


def run(command: str, *, cwd: Path, packages: Path | None = None) -> str:
    """Run ``forge`` with the words of ``command``; return its output, errors included.

    ``packages`` is a directory with further installed packages.
    """
    done = subprocess.run(
        [FORGE, *command.split()[1:]],
        cwd=cwd,
        env={
            **os.environ,
            "FORGE_OFFLINE": "1",
            "FORGE_CACHE": str(cwd / "cache"),
            "FORGE_RUN_ROOT": "runs",
            "COLUMNS": "100",
            **({"PYTHONPATH": str(packages)} if packages else {}),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    print(f"$ {command}", done.returncode, flush=True)
    return done.stdout.replace(f"{cwd}/", "")


def keep(name: str, text: str, *, lines: slice = slice(None)) -> None:
    """Write lines of a command's output into a file that pages include."""
    chosen = [line.rstrip() for line in text.splitlines()][lines]
    (CAPTURED / name).write_text("\n".join(chosen).strip("\n") + "\n", encoding="utf-8")


def small(picture: bytes) -> bytes:
    """Return a PNG file reduced to a palette."""
    result = io.BytesIO()
    with Image.open(io.BytesIO(picture)) as image:
        reduced = image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    reduced.save(result, format="PNG", optimize=True)
    return result.getvalue()


def keep_picture(path: Path, name: str) -> None:
    """Keep a picture that llmforge drew."""
    (CAPTURED / name).write_bytes(small(path.read_bytes()))


def keep_page(path: Path, name: str) -> None:
    """Keep a page with pictures in it."""
    page = re.sub(
        r"(?<=data:image/png;base64,)[\w+/=]+",
        lambda found: base64.b64encode(small(base64.b64decode(found[0]))).decode(),
        path.read_text(encoding="utf-8"),
    )
    (CAPTURED / name).write_text(page, encoding="utf-8")


def training(cwd: Path) -> None:
    """Train, be told that it is done, make a mistake, look."""
    trained = run("forge train wikitext_tiny", cwd=cwd).splitlines()
    steps = [line for line in trained if line.startswith(("step", "evaluat"))]
    tail = [line for line in trained if line.startswith(("single", "  best", "  final"))]
    keep("train.txt", "\n".join([*trained[2:7], *steps[:4], "…", *steps[-3:], *tail]))
    keep("again.txt", run("forge train wikitext_tiny", cwd=cwd))
    keep("mistake.txt", run("forge train wikitext_tiny --set optimzer.lr=3 -m nanno", cwd=cwd))
    keep("list.txt", run("forge runs list", cwd=cwd))
    for curve in ("loss", "perplexity", "learning_rate"):
        (path,) = cwd.glob(f"runs/single_*/plots/{curve}.png")
        keep_picture(path, f"{curve}.png")


def sweep(cwd: Path) -> None:
    """Sweep, and keep the table of trials, the pictures and the page that has them all."""
    run("forge sweep wikitext_tiny_sweep --workers 2", cwd=cwd)
    (directory,) = cwd.glob("runs/sweeps/*/")
    keep("sweep.txt", run(f"forge sweep status {directory.name}", cwd=cwd))
    for name in ("history", "curves", "importance", "parallel"):
        keep_picture(directory / "plots" / f"{name}.png", f"sweep-{name}.png")
    keep_page(directory / "report.html", "sweep-report.html")


def plugin(cwd: Path) -> None:
    """Follow *The first plugin*: write its package, install it, train with it."""
    page = (DOCS / "get-started" / "first-plugin.md").read_text(encoding="utf-8")
    component, _ = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (recipe,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    run("forge plugins new budget --kind callback", cwd=cwd)
    package, packages = cwd / "llmforge-budget", cwd / "packages"
    (package / "src/llmforge_budget/callback.py").write_text(component, encoding="utf-8")
    (package / "recipe.toml").write_text(recipe, encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--target", str(packages), str(package)], check=True)
    trained = run(
        "forge train llmforge-budget/recipe.toml --profile test", cwd=cwd, packages=packages
    )
    wanted = ("step ", "evaluation at", "single", "  best")
    keep("budget.txt", "\n".join(x for x in trained.splitlines() if x.startswith(wanted)))


def answers(cwd: Path) -> None:
    """Fine-tune a small model with metrics and tests, and compare two checkpoints."""
    page = (DOCS / "how-to" / "metrics-and-tests.md").read_text(encoding="utf-8")
    (tests,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    (cwd / "prompts.jsonl").write_text(tests, encoding="utf-8")
    (cwd / "chat.toml").write_text(CHAT, encoding="utf-8")
    trained = run("forge train chat.toml", cwd=cwd).splitlines()
    end = next(number for number, line in enumerate(trained) if line.startswith("chat: "))
    shown = [line for line in trained[:end] if line.startswith("evaluation at")]
    told = trained[end : trained.index("  run:      runs/chat")]
    keep("answers.txt", "\n".join([*shown, "…", *told]))
    keep("compare.txt", run(f"forge generate --compare chat@100 chat@300 {TESTS}", cwd=cwd))


def page(cwd: Path) -> None:
    """Train at three learning rates, and take pictures of the page of ``forge ui``."""
    from playwright.sync_api import sync_playwright

    for rate in ("5e-4", "2e-3", "8e-3"):
        changes = f"--set optimizer.adamw.lr={rate} --set eval.every=20"
        run(f"forge train wikitext_tiny --max-steps 120 --set train.log_every=1 {changes}", cwd=cwd)
    ids = sorted(path.name for path in cwd.glob("runs/single_*"))
    command = [FORGE, "ui", "--no-open", "--port", "0", "--root", "runs"]
    with subprocess.Popen(command, cwd=cwd, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        (address,) = re.findall(r"http://[\d.]+:\d+", server.stderr.readline())
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox"]
            )
            tab = browser.new_page(viewport={"width": 1200, "height": 760})
            for name, view in {
                "ui-runs": "runs",
                "ui-compare": "compare?" + "&".join(f"run={run_id}" for run_id in ids),
            }.items():
                tab.goto(f"{address}/#/{view}")
                tab.locator("td a, .chart canvas").first.wait_for()
                tab.wait_for_timeout(2000)
                (CAPTURED / f"{name}.png").write_bytes(small(tab.screenshot()))
            browser.close()
        server.terminate()


PARTS = {"training": training, "answers": answers, "sweep": sweep, "plugin": plugin, "page": page}


def main(names: list[str]) -> None:
    """Run these parts, or everything, and keep what is printed and drawn."""
    CAPTURED.mkdir(exist_ok=True)
    for name in names or PARTS:
        with tempfile.TemporaryDirectory() as directory:
            PARTS[name](Path(directory))


if __name__ == "__main__":
    main(sys.argv[1:])

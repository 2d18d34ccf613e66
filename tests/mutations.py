"""Edits that each remove one protection, and the test that must fail then: ``make test-mutations``.

A protection that no test misses is no protection. Each edit is made in a copy of the tree; a
mutation that survives, or whose text is no longer there, ends the run with exit code 1.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
COPIED = ("llmforge", "plugins", "recipes", "tests", "docs", "examples", "pyproject.toml")


@dataclass(frozen=True)
class Mutation:
    """One edit: what it removes, where, and the test that finds it."""

    removes: str
    file: str
    old: str
    new: str
    test: str


MUTATIONS = (
    Mutation(
        "files are on the disk before the rename that makes a checkpoint valid",
        "llmforge/checkpoint/publish.py",
        "    sync_directory(temporary)\n    _move_into_place",
        "    _move_into_place",
        "tests/unit/test_checkpoint_publish.py",
    ),
    Mutation(
        "a checkpoint's hashes are compared",
        "llmforge/checkpoint/format.py",
        "if hashes and hash_file(file, moved=moved) != entry.sha256:",
        "if False:",
        "tests/unit/test_checkpoint_format.py",
    ),
    Mutation(
        "a manifest names no file outside its checkpoint",
        "llmforge/checkpoint/manifest.py",
        'if parts.is_absolute() or ".." in parts.parts:',
        "if False:",
        "tests/unit/test_checkpoint_format.py",
    ),
    Mutation(
        "a run without a sound checkpoint does not start over",
        "llmforge/checkpoint/restore.py",
        "    _refuse_to_start_over(directory, damaged)\n",
        "",
        "tests/unit/test_checkpoint_restore.py",
    ),
    Mutation(
        "one process at a time trains a run",
        "llmforge/rundir/lock.py",
        "            _lock(descriptor)\n",
        "            pass\n",
        "tests/smoke/test_lock.py",
    ),
    Mutation(
        "a loss that is not finite reaches no checkpoint",
        "llmforge/run/training/loop.py",
        "if not self._engine.finite():",
        "if False:",
        "tests/smoke/test_failures.py::test_nan_ends_the_run_and_never_reaches_a_checkpoint",
    ),
    Mutation(
        "a run is not continued with another recipe",
        "llmforge/run/plan.py",
        'if record.identity.get("hash") != plan.identity.hash:',
        "if False:",
        "tests/smoke/test_resume.py",
    ),
    Mutation(
        "a run is not continued on other data",
        "llmforge/run/setup/build.py",
        "if changed and not allow_change:",
        "if False:",
        "tests/smoke/test_resume.py",
    ),
    Mutation(
        "a signal lets the step finish",
        "llmforge/run/signals.py",
        "        self._deferred += 1\n",
        "",
        "tests/unit/test_run_signals.py",
    ),
    Mutation(
        "a dropped terminal stops a run with its checkpoint",
        "llmforge/stop_signals.py",
        "return (signal.SIGTERM, signal.SIGINT, hangup)",
        "return (signal.SIGTERM, signal.SIGINT)",
        "tests/unit/test_run_signals.py",
    ),
    Mutation(
        "a run outlives the reader of its output",
        "llmforge/__main__.py",
        "protect_streams(keep_running=trains)",
        "protect_streams(keep_running=False)",
        "tests/smoke/test_readers.py::test_a_run_outlives_the_reader_of_its_output",
    ),
    Mutation(
        "a completed run is skipped from a note only while nothing changed",
        "llmforge/cli/early/finished.py",
        " or not _holds(note)",
        "",
        "tests/unit/test_finished_notes.py",
    ),
    Mutation(
        "what is uploaded is altered on the way and noticed here",
        "llmforge/remote/upload.py",
        "if hash_file(source.path) != source.entry.sha256:",
        "if False:",
        "tests/unit/test_remote_run.py",
    ),
    Mutation(
        "what is in storage is verified before it is committed",
        "llmforge/remote/upload.py",
        "            self._verify(objects)\n",
        "            pass\n",
        "tests/integration/test_storage_faults.py",
    ),
    Mutation(
        "secrets are taken out of text",
        "llmforge/redaction.py",
        "        text = text.replace(secret, HIDDEN)\n",
        "        pass\n",
        "tests/unit/test_redaction.py",
    ),
    Mutation(
        "a recipe with a secret is refused",
        "llmforge/redaction.py",
        "elif any(holds_credential(text) for text in _texts(value)):",
        "elif False:",
        "tests/unit/test_recipe_check.py",
    ),
    Mutation(
        "control characters do not reach the terminal",
        "llmforge/printable.py",
        "    return _UNREADABLE.sub(_escaped, text)\n",
        "    return text\n",
        "tests/unit/test_printable.py",
    ),
    Mutation(
        "epochs end where their last window is taken",
        "llmforge/data/order.py",
        "return after // length > before // length",
        "return step % math.ceil(length / self.batch_size) == 0",
        "tests/unit/test_epochs.py",
    ),
    Mutation(
        "an archive holds only what the checkpoint has, inside of the target",
        "llmforge/remote/archive.py",
        "if info.name not in left or not is_safe(info.name):",
        "if False:",
        "tests/unit/test_remote_archive.py",
    ),
)


def survives(mutation: Mutation, tree: Path) -> str | None:
    """Return why ``mutation``, made in ``tree``, was not found; None when a test failed."""
    file = tree / mutation.file
    text = file.read_text(encoding="utf-8")
    if text.count(mutation.old) != 1:
        return f"its text is in {mutation.file} {text.count(mutation.old)} times, and not once"
    file.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "-m", "not slow", mutation.test],
            cwd=tree,
            env={**os.environ, "PYTHONPATH": f"{tree}{os.pathsep}{tree / 'plugins'}"},
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=900,
        )
    finally:
        file.write_text(text, encoding="utf-8")
    if done.returncode == 1 or done.returncode < 0:  # failed, or ended by the very signal
        return None
    return f"pytest ended with {done.returncode}: {done.stdout.strip().splitlines()[-1:]}"


def main() -> None:
    """Try every mutation, or those whose words are given."""
    wanted = sys.argv[1:]
    survivors = 0
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        for name in COPIED:
            source = ROOT / name
            copy = shutil.copytree if source.is_dir() else shutil.copyfile
            copy(source, tree / name)
        for mutation in MUTATIONS:
            if any(word not in mutation.removes for word in wanted):
                continue
            began = time.monotonic()
            why = survives(mutation, tree)
            survivors += why is not None
            said = "found" if why is None else f"SURVIVED: {why}"
            print(f"{said:<8} {time.monotonic() - began:5.1f} s  {mutation.removes}", flush=True)
    sys.exit(1 if survivors else 0)


if __name__ == "__main__":
    main()

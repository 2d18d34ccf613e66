"""Certificates of proofs: written with a seal, and everything that is wrong with one is found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from llmforge.checkpoint.manifest import seal
from llmforge.cli.runs import app
from llmforge.errors import RunError
from llmforge.proof.certificate import (
    Certificate,
    Comparison,
    File,
    Goodput,
    Kill,
    KilledRun,
    ProvedRecipe,
    ProvedRun,
    read_certificate,
    verify_certificate,
    write_certificate,
)

KEYS = {"train.max_steps": 12}


def certificate(directory: Path | None, **changes: Any) -> Certificate:
    """Return one of a run whose metrics are in ``directory``."""
    files = {}
    if directory is not None:
        directory.mkdir()
        (directory / "metrics.jsonl").write_bytes(b"{}\n")
        files["metrics.jsonl"] = File(size=3, sha256=hashlib.sha256(b"{}\n").hexdigest())
    run = ProvedRun(
        directory=None if directory is None else str(directory),
        seconds=1.0,
        state="completed",
        step=12,
        files=files,
    )
    kill = Kill(
        time="2026-01-01T00:00:00+00:00",
        pid=7,
        aimed_at="saving",
        phases={"stepping": 4, "saving": 4},
        step=4,
        after=0.5,
        courier=False,
        left=(),
        resumed_from=0,
    )
    compared = Comparison(name="weights", result="equal", reference="ab", killed="ab")
    canonical = json.dumps(
        {"schema_version": 1, "keys": KEYS}, sort_keys=True, separators=(",", ":")
    )
    values: dict[str, Any] = {
        "created": "2026-01-01T00:00:00+00:00",
        "verdict": "proved",
        "run_id": "tiny",
        "recipe": ProvedRecipe(
            source="recipe.toml",
            profile=None,
            changes=(),
            replaced={},
            hash=hashlib.sha256(canonical.encode()).hexdigest(),
            keys=KEYS,
            schema_version=1,
            resolved={},
        ),
        "seed": 0,
        "kills": 1,
        "tolerance": 0.0,
        "hardware": {},
        "versions": {},
        "auto": {},
        "reference": run,
        "killed": (KilledRun(run=run, kills=(kill,), comparisons=(compared,)),),
        "lost": Goodput(steps=4, seconds=1.0, share=0.5),
    }
    return Certificate(**{**values, **changes})


def written(path: Path, change: Callable[[dict[str, Any]], object], *, sealed: bool = True) -> Path:
    """Change the certificate in ``path``, and seal it again unless it is to be noticed."""
    body = json.loads(path.read_text(encoding="utf-8"))
    del body["seal"]
    before = seal(body)
    change(body)
    path.write_text(json.dumps({**body, "seal": seal(body) if sealed else before}))
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A certificate that holds, of a run that was kept."""
    path = tmp_path / "proof.json"
    write_certificate(path, certificate(tmp_path / "run"))
    return path


def keys(path: Path) -> list[str]:
    return [problem.key for problem in verify_certificate(path)]


def test_a_certificate_reads_back_as_it_was_written(path: Path, tmp_path: Path) -> None:
    found = read_certificate(path)
    assert found.all_kills[0].phases == {"stepping": 4, "saving": 4}
    assert found.phases_hit == ["stepping", "saving"]
    assert str(found) == ("tiny: 1 kill (stepping, saving), ended as if never killed, bit for bit")
    assert verify_certificate(path) == []
    write_certificate(tmp_path / "again.json", found)
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()


def test_an_altered_certificate_is_noticed(path: Path) -> None:
    assert keys(written(path, lambda body: body.update(seed=1), sealed=False)) == ["seal"]


def test_a_verdict_that_does_not_follow_is_noticed(path: Path) -> None:
    def differ(body: dict[str, Any]) -> None:
        body["killed"][0]["comparisons"][0]["result"] = "differs"

    assert keys(written(path, differ)) == ["verdict"]


def test_a_run_that_failed_or_was_not_compared_proves_nothing(path: Path) -> None:
    def fail(body: dict[str, Any]) -> None:
        body["killed"][0] |= {"failure": "exit code 1", "comparisons": []}

    assert keys(written(path, fail)) == ["verdict"]


def test_a_proof_without_a_kill_is_none(path: Path) -> None:
    assert keys(written(path, lambda body: body["killed"][0].update(kills=[]))) == ["killed"]


def test_the_hash_of_the_recipe_is_that_of_its_keys(path: Path) -> None:
    def longer(body: dict[str, Any]) -> None:
        body["recipe"]["keys"]["train.max_steps"] = 1200

    assert keys(written(path, longer)) == ["recipe.hash"]


def test_files_that_changed_or_went_are_named(path: Path, tmp_path: Path) -> None:
    metrics = tmp_path / "run" / "metrics.jsonl"
    metrics.write_bytes(b"[]\n")
    reference, killed = verify_certificate(path)  # both runs are this one
    assert str(metrics) in reference.message
    assert "hash differs" in killed.message
    metrics.unlink()
    assert "is missing" in verify_certificate(path)[0].message
    metrics.parent.rmdir()
    assert keys(path) == ["directory", "directory"]


def test_a_certificate_of_runs_that_were_not_kept_holds_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "proof.json"
    write_certificate(path, certificate(tmp_path / "run").without_directories())
    (tmp_path / "run" / "metrics.jsonl").unlink()
    assert verify_certificate(path) == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is not JSON"),
        ("[]", "is not a certificate"),
        ('{"kind": "llmforge resume proof", "format_version": 99}', "newer than this llmforge"),
        ('{"kind": "llmforge resume proof"}', "Field required"),
    ],
)
def test_what_is_no_certificate_is_one_problem_or_more(
    tmp_path: Path, text: str, told: str
) -> None:
    path = tmp_path / "proof.json"
    path.write_text(text)
    assert told in verify_certificate(path)[0].message
    with pytest.raises(RunError, match=told):
        read_certificate(path)


def test_a_certificate_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    assert "cannot be read" in verify_certificate(tmp_path / "proof.json")[0].message


def test_runs_verify_says_whether_a_certificate_holds(path: Path) -> None:
    result = CliRunner().invoke(app, ["verify", str(path)])
    assert result.exit_code == 0
    assert "the certificate holds" in result.output
    path.write_text("{}", encoding="utf-8")
    result = CliRunner().invoke(app, ["verify", str(path)])
    assert result.exit_code == 1
    assert "is not a certificate" in result.output
    assert "does not hold" in result.output

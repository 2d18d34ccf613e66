"""The certificate of a proof: what was done, what was compared, what came out, sealed.

It is JSON, and says of every file it rests on how large it is and its SHA-256. No torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from llmforge.checkpoint.hashed_files import hash_file
from llmforge.checkpoint.manifest import seal
from llmforge.errors import Problem, RunError
from llmforge.rundir.atomic import write_json

FORMAT_VERSION = 1
PROOFS = ".prove"
"""Holds proofs and their certificates, below the directory of all runs."""

Verdict = Literal["proved", "differs"]


class Part(BaseModel):
    """Base of a certificate's parts: what is not known is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Difference(Part):
    """Something that is not the same in both runs.

    Attributes:
        step: it belongs to; None where there is none.
        name: of the tensor, metric, key or file.
        what: both values, in words.
        largest: the largest absolute difference of numbers; None where there is no number.
    """

    step: int | None = None
    name: str
    what: str
    largest: float | None = None


class Comparison(Part):
    """One thing that was compared.

    Attributes:
        name: of the thing.
        result: ``equal`` bit for bit, ``close`` within the tolerance, ``differs``, or ``not
            judged`` where a tolerance has no meaning.
        reference: hash in the run that was not killed.
        killed: hash in the one that was.
        count: how many differences there are.
        differences: the first and the largest of them.
    """

    name: str
    result: Literal["equal", "close", "differs", "not judged"]
    reference: str
    killed: str
    count: int = 0
    differences: tuple[Difference, ...] = ()

    def first_and_largest(self) -> list[Difference]:
        """Return the first difference, and the one by the largest number if it is another."""
        most = max(self.differences, key=lambda item: item.largest or 0.0, default=None)
        both = [*self.differences[:1], *([most] if most is not None and most.largest else [])]
        return list(dict.fromkeys(both))


class Kill(Part):
    """A SIGKILL.

    Attributes:
        time: of it, in UTC, ISO 8601.
        pid: of the process.
        aimed_at: the phase it was meant for.
        phases: what the process was doing, with the step of each.
        step: the newest step that had a row.
        after: seconds since the process was started.
        courier: whether the courier was killed with it.
        left: what was found on the disk.
        resumed_from: the step the next start resumed from; None for the beginning.
    """

    time: str
    pid: int
    aimed_at: str
    phases: dict[str, int]
    step: int
    after: float
    courier: bool
    left: tuple[str, ...]
    resumed_from: int | None = None


class File(Part):
    """Size in bytes and SHA-256 of a file."""

    size: int
    sha256: str


class ProvedRun(Part):
    """A run that was trained for the proof.

    Attributes:
        directory: of the run; None when it was deleted.
        seconds: that its starts took together.
        state: how it ended, for example ``completed``.
        step: its last one.
        files: those that were compared, by name within the directory.
    """

    directory: str | None
    seconds: float
    state: str
    step: int
    files: dict[str, File]


class KilledRun(Part):
    """A run that was killed and resumed, and how it compares with the reference.

    Attributes:
        run: the run.
        kills: in order.
        failure: what the resumed run failed with; empty when it did not.
        comparisons: with the reference.
    """

    run: ProvedRun
    kills: tuple[Kill, ...]
    failure: str = ""
    comparisons: tuple[Comparison, ...] = ()


class ProvedRecipe(Part):
    """The recipe that was trained.

    Attributes:
        source: its file or name.
        profile: laid over it.
        changes: ``--set`` of the user, as typed.
        replaced: keys the proof set, and to what.
        hash: its identity, a hash of ``keys``.
        keys: those that make up its identity.
        schema_version: how the hash was made.
        resolved: every value of it.
    """

    source: str
    profile: str | None
    changes: tuple[str, ...]
    replaced: dict[str, Any]
    hash: str
    keys: dict[str, Any]
    schema_version: int
    resolved: dict[str, Any]


class Goodput(Part):
    """What the kills cost.

    Attributes:
        steps: that were computed more than once, at least.
        seconds: that the killed runs took longer than the reference.
        share: of the killed runs' seconds that is.
    """

    steps: int
    seconds: float
    share: float


class Certificate(Part):
    """The certificate of a proof.

    Attributes:
        kind: tells it from other JSON.
        created: in UTC, ISO 8601.
        verdict: ``proved`` when every killed run came to the reference's result.
        run_id: of the run in both.
        recipe: that was trained.
        seed: the instants were drawn from.
        kills: that were asked for.
        tolerance: relative; 0 means bit for bit.
        hardware: that computed it.
        versions: of Python and packages.
        auto: what ``auto`` became; the killed runs had it from the reference.
        reference: the run that was not killed.
        killed: the runs that were; more than one where the first ended before all kills.
        lost: goodput that the kills cost.
    """

    format_version: int = FORMAT_VERSION
    kind: Literal["llmforge resume proof"] = "llmforge resume proof"
    created: str
    verdict: Verdict
    run_id: str
    recipe: ProvedRecipe
    seed: int
    kills: int
    tolerance: float
    hardware: dict[str, Any]
    versions: dict[str, str]
    auto: dict[str, Any]
    reference: ProvedRun
    killed: tuple[KilledRun, ...]
    lost: Goodput

    @property
    def all_kills(self) -> list[Kill]:
        """The kills of all killed runs, in order."""
        return [kill for item in self.killed for kill in item.kills]

    @property
    def phases_hit(self) -> list[str]:
        """What the processes were really doing when they were killed, each once."""
        return list(dict.fromkeys(name for kill in self.all_kills for name in kill.phases))

    def without_directories(self) -> Certificate:
        """Return the certificate of runs that are not kept."""
        killed = tuple(
            item.model_copy(update={"run": item.run.model_copy(update={"directory": None})})
            for item in self.killed
        )
        reference = self.reference.model_copy(update={"directory": None})
        return self.model_copy(update={"reference": reference, "killed": killed})

    def __str__(self) -> str:
        """Return it in one line."""
        exact = "bit for bit" if not self.tolerance else f"within {self.tolerance:g}"
        said = (
            f"ended as if never killed, {exact}" if self.verdict == "proved" else "ended otherwise"
        )
        return (
            f"{self.run_id}: {counted(len(self.all_kills), 'kill')} "
            f"({', '.join(self.phases_hit)}), {said}"
        )


def counted(number: int, what: str) -> str:
    """Return a number of things in words, for example ``1 kill`` or ``3 kills``."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def certificate_path(root: Path, run_id: str) -> Path:
    """Return where the certificate of the newest proof of a run is, unless the user chose."""
    return root / PROOFS / f"{run_id}.json"


def write_certificate(path: Path, certificate: Certificate) -> None:
    """Write a certificate with its seal, in one step.

    Raises:
        RunError: the file cannot be written.
    """
    body = certificate.model_dump(mode="json")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {**body, "seal": seal(body)})
    except OSError as error:
        raise RunError(
            f"the certificate {path} cannot be written: {error.strerror}",
            remedy="choose another file with --output",
        ) from error


def read_certificate(path: Path) -> Certificate:
    """Return the certificate in the file ``path``; :func:`verify_certificate` judges it.

    Raises:
        RunError: it is none, or of a later version of llmforge.
    """
    problems, _, certificate = _read(path)
    if certificate is None:
        raise RunError("\n  ".join(map(str, problems)))
    return certificate


def verify_certificate(path: Path) -> list[Problem]:
    """Return everything that is wrong with a certificate; empty when it holds.

    Its form, its seal, the hash of its recipe, whether its verdict follows from what it says, and
    whether the runs' files still have the hashes it gives, where they were kept (``--keep``).

    Args:
        path: the certificate.
    """
    problems, body, certificate = _read(path)
    if certificate is None:
        return problems
    found = [*_wrong_seal(body), *_wrong_hash(certificate), *_wrong_verdict(certificate)]
    runs = [certificate.reference, *(item.run for item in certificate.killed)]
    found += [problem for run in runs for problem in _wrong_files(run)]
    return [Problem(message=text, key=key, where=str(path)) for key, text in found]


_Wrong = tuple[str, str]


def _read(path: Path) -> tuple[list[Problem], dict[str, Any], Certificate | None]:
    """Return what is wrong, the content, and the certificate if it is one."""

    def refused(message: str, remedy: str = "") -> tuple[list[Problem], dict[str, Any], None]:
        return [Problem(message=message, where=str(path), remedy=remedy)], {}, None

    try:
        body = json.loads(path.read_bytes())
    except OSError as error:
        return refused(f"cannot be read: {error.strerror}")
    except ValueError as error:
        return refused(f"is not JSON: {error}")
    if not isinstance(body, dict) or body.get("kind") != "llmforge resume proof":
        return refused("is not a certificate", "'forge prove-resume' writes one")
    version = body.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        return refused(f"has format {version}, newer than this llmforge", "upgrade llmforge")
    try:
        values = {name: value for name, value in body.items() if name != "seal"}
        return [], body, Certificate.model_validate(values)
    except ValidationError as error:
        problems = [
            Problem(message=item["msg"], key=".".join(map(str, item["loc"])), where=str(path))
            for item in error.errors(include_url=False)
        ]
        return problems, body, None


def _wrong_seal(body: dict[str, Any]) -> Iterator[_Wrong]:
    values = {name: value for name, value in body.items() if name != "seal"}
    if body.get("seal") != seal(values):
        yield "seal", "the certificate was altered: its seal does not match"


def _wrong_hash(certificate: Certificate) -> Iterator[_Wrong]:
    recipe = certificate.recipe
    text = json.dumps(
        {"schema_version": recipe.schema_version, "keys": recipe.keys},
        sort_keys=True,
        separators=(",", ":"),
    )
    if hashlib.sha256(text.encode()).hexdigest() != recipe.hash:
        yield "recipe.hash", "the hash is not that of the recipe's keys"


def _wrong_verdict(certificate: Certificate) -> Iterator[_Wrong]:
    if certificate.verdict != verdict_of(certificate.killed):
        yield "verdict", f"'{certificate.verdict}' does not follow from the comparisons"
    if certificate.verdict == "proved" and not certificate.all_kills:
        yield "killed", "nothing was killed, so nothing is proved"


def verdict_of(runs: tuple[KilledRun, ...]) -> Verdict:
    """Return what follows from the comparisons of killed runs."""
    fine = all(
        not item.failure
        and item.comparisons
        and all(found.result != "differs" for found in item.comparisons)
        for item in runs
    )
    return "proved" if fine and runs else "differs"


def _wrong_files(run: ProvedRun) -> Iterator[_Wrong]:
    if run.directory is None:
        return
    directory = Path(run.directory)
    if not directory.is_dir():
        yield "directory", f"{directory} is gone, which the certificate says was kept"
        return
    for name, entry in run.files.items():
        path = directory / name
        try:
            if path.stat().st_size != entry.size or hash_file(path) != entry.sha256:
                yield "files", f"{path} is not the file that was compared: its hash differs"
        except FileNotFoundError:
            yield "files", f"{path} is missing"
        except OSError as error:
            yield "files", f"{path} cannot be read: {error.strerror}"

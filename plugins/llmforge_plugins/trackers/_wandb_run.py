"""One W&B run over all starts of a run: what is logged to it, and what of that has arrived.

W&B takes the rows of its history in the order of their steps and silently drops what comes late,
and its client returns before anything is sent. So values that come late go into the row that is
open, and an event counts as arrived only when the end of the history, as the service or the
offline file has it, is at or behind its row and its files are there too.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import wandb

from llmforge import events
from llmforge.errors import DeliveryLost
from llmforge_plugins.trackers._wandb_client import FINISH_SECONDS, Identity, open_client
from llmforge_plugins.trackers._wandb_offline import offline_tail
from llmforge_plugins.trackers._wandb_service import Service, Tail, service

ARTIFACT_SECONDS = 600

LOOK_EVERY = 10.0
LOOK_EVERY_AT_THE_END = 1.0
"""Seconds between two looks at what has arrived."""

PATIENCE = 300.0
PATIENCE_AT_THE_END = 15.0
"""Seconds after which what a service that answers still lacks counts as lost."""


@dataclass(frozen=True)
class _Sent:
    """An event that was logged: its row, and the sizes of the files that belong to it."""

    event: events.Event
    row: int
    files: Mapping[str, int] = field(default_factory=dict)


class WandbRun:
    """The W&B run of a run.

    Args:
        directory: everything the client writes is below it; ``run.json`` has the W&B run's id.
        options: of the tracker.
    """

    def __init__(self, directory: Path, options: Any) -> None:
        self._directory = directory
        self._options = options
        self._identity = Identity(directory / "run.json")
        self._client: Any = None
        self._service: Service | None = None
        self._forge = Path()
        self._forge_id = ""
        self._forget()

    def _forget(self) -> None:
        """Know nothing of a session: what is there, which row is open, what is under way."""
        self._before = self._there = Tail()
        self._row = 0
        self._open: set[str] = set()
        self._sent: list[_Sent] = []
        self._files: dict[str, int] = {}
        self._resent: dict[str, int] = {}
        self._looked = self._moved = time.monotonic()

    # Start and end -------------------------------------------------------------------------

    def start(self, event: events.RunStarted) -> str:
        """Begin or resume; a start told again only refreshes the configuration.

        Returns:
            where the run can be seen, or how offline files get there.

        Raises:
            OSError: the service does not answer; nothing was started.
        """
        if self._client is None:
            self._begin(event)
        self._client.config.update(_config(event), allow_val_change=True)
        if self._service is None:
            return f"wandb sync {self._directory}/wandb/offline-run-*"
        return str(self._client.url)

    @property
    def address(self) -> str:
        """``ENTITY/PROJECT/ID`` of the W&B run."""
        place = self._identity.place
        return f"{place['entity']}/{place['project']}/{place['run']}"

    def _begin(self, event: events.RunStarted) -> None:
        self._forge, self._forge_id = Path(event.directory), event.run_id
        table = event.config.get("run") or {}
        self._identity.open(
            entity=self._options.entity, project=self._options.project or table.get("project")
        )
        self._service = service() if self._options.mode == "online" else None
        wandb.teardown()  # a session that was given up must not send any more
        self._forget()
        self._before = self._there = self._tail()
        self._client = open_client(
            self._directory, self._identity, self._options, event, config=_config(event)
        )
        self._row = max(self._client.starting_step, self._before.step + 1)
        self._identity.save(entity=self._client.entity or "", url=self._client.url or "")
        self._send_lost_files()

    def finish(self, event: events.RunEnded) -> None:
        """Write the summary and end the session.

        Raises:
            DeliveryLost: the client could not send the rest; it is sent again.
        """
        if self._client is None:
            return
        metrics = {key: value for key, value in event.metrics.items() if key != "step"}
        self._client.summary.update({**metrics, "state": event.state, "reason": event.reason})
        if event.state == "interrupted":
            self._client.mark_preempting()
        self._sent.append(_Sent(event, self._row if self._open else -1))
        client, self._client = self._client, None
        try:
            client.finish(
                exit_code=0 if event.state in ("completed", "early-stopped", "pruned") else 1
            )
        except TimeoutError:
            self._lose(f"W&B did not take the rest within {FINISH_SECONDS:.0f} s")
        self._looked, self._moved = 0.0, time.monotonic()

    # Logging -------------------------------------------------------------------------------

    def log(
        self, event: events.Event, values: Mapping[str, Any], *, step: int, time: float
    ) -> None:
        """Log what of ``values`` an earlier process did not log already."""
        fresh = {name: value for name, value in values.items() if not self._before.has(name, step)}
        if not fresh:
            return
        row = max(step, self._row)
        if row == self._row and self._open & fresh.keys():
            row += 1
        if row > self._row:
            self._open = set()
        self._client.log({**fresh, "_timestamp": time}, step=row)
        self._row = row
        self._open |= fresh.keys()
        self._sent.append(_Sent(event, row, self._new_files()))

    def log_histograms(self, event: events.HistogramsLogged) -> None:
        """Log each histogram under its name; empty ones are left out."""
        values = {
            name: wandb.Histogram(np_histogram=(item["counts"], item["edges"]))
            for name, item in event.values.items()
            if item["counts"]
        }
        self.log(event, values, step=event.step, time=time.time())

    def log_samples(self, event: events.SamplesGenerated) -> None:
        """Log one table of the samples of this step and of all before it."""
        if event.samples and self._is_new(event, "samples", event.step):
            rows = [*self._earlier_samples(event.step), *event.samples]
            rows = [{"step": event.step, **row} for row in rows]
            named = dict.fromkeys(["step", "prompt", "text", *(key for row in rows for key in row)])
            data = [[row.get(name) for name in named] for row in rows]
            table = wandb.Table(columns=list(named), data=data, allow_mixed_types=True)
            self.log(event, {"samples": table}, step=event.step, time=time.time())

    def log_plot(self, event: events.ArtifactWritten) -> None:
        """Log a plot as an image at the step the run is at; it may be gone by now."""
        path, name = self._forge / event.path, f"plots/{event.name}"
        step = event.step
        if step is None:
            step = self._row if self._open else self._before.step
        if path.is_file() and self._is_new(event, name, step):
            self.log(event, {name: wandb.Image(str(path))}, step=step, time=time.time())

    def log_artifact(
        self,
        relative: str,
        *,
        kind: str,
        aliases: Sequence[str],
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        """Log a file or folder as an artifact, ``facts`` as its metadata; wait until it is there.

        Content that W&B has already makes no new version. What retention has deleted is left out.
        """
        path = self._forge / relative
        if not path.exists():
            return
        name = re.sub(r"[^A-Za-z0-9._-]", "-", f"{self._forge_id}-{kind}")
        artifact = wandb.Artifact(name, type=artifact_type(kind), metadata=dict(facts or {}))
        # offline, a copy waits for ``wandb sync``; online the files themselves are sent now
        policy = "mutable" if self._service is None else "immutable"
        if path.is_dir():
            artifact.add_dir(str(path), policy=policy, skip_cache=True)
        else:
            artifact.add_file(str(path), policy=policy, skip_cache=True)
        self._check_answer()
        logged = self._client.log_artifact(artifact, aliases=["latest", *aliases])
        if self._service is not None:
            logged.wait(ARTIFACT_SECONDS)

    # Arrival -------------------------------------------------------------------------------

    def has_arrived(self, event: events.Event) -> bool:
        """Return whether what was logged for ``event`` is where it belongs.

        Raises:
            DeliveryLost: it is not, and the service has been answering for long.
            OSError: the service does not answer.
        """
        sent = next((item for item in self._sent if item.event is event), None)
        if sent is None:
            return True
        if sent.row > self._there.step or sent.files:
            return self._look(sent)
        self._sent.remove(sent)
        return True

    def _look(self, sent: _Sent) -> bool:
        """See, now and then, how far the history has come and whether files are there."""
        ended = self._client is None
        if time.monotonic() - self._looked < (LOOK_EVERY_AT_THE_END if ended else LOOK_EVERY):
            return False
        self._looked = time.monotonic()
        try:
            there, missing = self._tail(), self._missing(sent.files)
        except OSError:
            self._moved = time.monotonic()  # patience is for a service that answers
            raise
        if there != self._there:
            self._there, self._moved = there, time.monotonic()
        if sent.row <= there.step and not missing:
            self._sent.remove(sent)
            return True
        is_closed = ended or sent.row < self._row  # an open row is sent with the next one
        patience = PATIENCE_AT_THE_END if ended else PATIENCE
        if is_closed and time.monotonic() - self._moved > patience:
            self._lose("W&B answers but lacks what it was sent")
        return False

    def _lose(self, message: str) -> None:
        """Give the session up and have what it lacks told again, to a new one."""
        self._client = None
        raise DeliveryLost(f"{message}; it is sent again")

    def _send_lost_files(self) -> None:
        """Send the files of earlier sessions that never arrived, under their names."""
        if self._service is None:
            return
        for base in sorted(self._directory.glob(f"wandb/run-*-{self._identity.id}/files")):
            sizes = media_of(base) if str(base) != self._client.dir else {}
            for name in self._missing(sizes):
                self._client.save(str(base / name), base_path=str(base), policy="now")
                self._resent[name] = sizes[name]

    # What it works with --------------------------------------------------------------------

    def _is_new(self, event: events.Event, name: str, step: int) -> bool:
        """Return whether a value with files is to be logged; if not, its files may be under way."""
        self._check_answer()
        if not self._before.has(name, step):
            return True
        if self._resent:
            self._sent.append(_Sent(event, -1, dict(self._resent)))
        return False

    def _tail(self) -> Tail:
        if self._service is None:
            return offline_tail(self._directory, self._identity.id)
        return self._service.tail(**self._identity.place)

    def _missing(self, files: Mapping[str, int]) -> set[str]:
        if self._service is None or not files:
            return set()
        return self._service.missing(files, **self._identity.place)

    def _check_answer(self) -> None:
        """Raise when the service is away: the client's own call would hang for long."""
        if self._service is not None:
            self._service.viewer()

    def _earlier_samples(self, step: int) -> list[dict[str, Any]]:
        path = self._forge / "samples.jsonl"
        if not path.exists():
            return []
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return [row for row in rows if row.get("step", step) < step]

    def _new_files(self) -> dict[str, int]:
        """Return the sizes of the files that the last call made, by their names in W&B."""
        found = media_of(Path(self._client.dir))
        new = {name: size for name, size in found.items() if name not in self._files}
        self._files |= new
        return new


def artifact_type(kind: str) -> str:
    """Return the type under which W&B files an artifact of this kind."""
    return "model" if kind == "checkpoint" else kind


def media_of(files: Path) -> dict[str, int]:
    """Return the sizes of tables and images in a session's folder of files, by relative name."""
    paths = [path for path in files.glob("media/**/*") if path.is_file()]
    return {str(path.relative_to(files)): path.stat().st_size for path in paths}


def _config(event: events.RunStarted) -> dict[str, Any]:
    facts = {key: value for key, value in event.facts.items() if key not in ("name", "tags")}
    return {**event.config, "facts": facts, "run_id": event.run_id, "attempt": event.attempt}

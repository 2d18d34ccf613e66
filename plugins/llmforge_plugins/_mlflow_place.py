"""Which MLflow run a run of ours is: written down before it is used, so that there is only one.

What the URI of a store says is found here without asking anybody. Shared by the kinds ``tracker``
and ``deploy``.
"""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

URI_VARIABLE = "MLFLOW_TRACKING_URI"

_LOGIN = re.compile(r"(?<=://)[^/@\s]+@")


def without_login(uri: str) -> str:
    """Return ``uri`` without user name and password."""
    return _LOGIN.sub("", uri)


def is_server(uri: str) -> bool:
    """Return whether ``uri`` is that of a server and not of a database opened from here."""
    return urlsplit(uri).scheme in ("http", "https") or uri.startswith("databricks")


def sqlite_file(uri: str) -> Path | None:
    """Return the file of an SQLite store, None for any other."""
    scheme, _, path = uri.partition(":///")
    return Path(path) if scheme.split("+")[0] == "sqlite" and path else None


@dataclass(frozen=True)
class Place:
    """A store, and the MLflow run in it.

    Attributes:
        uri: the store as it was given or found, without a login.
        given: the option or variable that said so, without a login; empty for the default.
        experiment_id: of the run; empty until it is known.
        key: value of the tag by which the MLflow run is found when its id was not written down.
        run_id: of the MLflow run; empty until it is known.
    """

    uri: str
    given: str
    experiment_id: str = ""
    key: str = ""
    run_id: str = ""


def tracking_uri(option: str | None, run_directory: Path) -> str:
    """Return the store to use: the option, ``MLFLOW_TRACKING_URI``, or a file beside the runs.

    A run continues in the store it began in when neither says otherwise now.
    """
    given = option or os.environ.get(URI_VARIABLE, "")
    recorded = _read(_file(run_directory))
    if recorded is not None and without_login(given) in ("", recorded.given) and recorded.given:
        # A relative path means what it meant at the first start; a login is never written down.
        return given if given != without_login(given) else recorded.uri
    return store_uri(given, run_directory.parent)


def store_uri(given: str, root: Path) -> str:
    """Return the store that ``given`` means here; the file of the runs in ``root`` when empty."""
    if not given:
        return f"sqlite:///{root.absolute() / 'mlflow.db'}"
    file = sqlite_file(given)
    return given if file is None else f"{given.split(':')[0]}:///{file.absolute()}"


def place_of(option: str | None, run_directory: Path, uri: str) -> Place:
    """Return the place recorded for ``uri``, or a new one, recorded before it is returned."""
    path = _file(run_directory)
    recorded = _read(path)
    if recorded is not None and recorded.uri == without_login(uri):
        return recorded
    given = without_login(option or os.environ.get(URI_VARIABLE, ""))
    return record(run_directory, Place(without_login(uri), given, key=uuid.uuid4().hex))


def recorded_run(run_directory: Path, uri: str) -> str:
    """Return the id of the MLflow run that our run has in the store ``uri``; empty if none."""
    recorded = _read(_file(run_directory))
    return recorded.run_id if recorded and recorded.uri == without_login(uri) else ""


def record(run_directory: Path, place: Place) -> Place:
    """Write ``place`` down in one step and return it."""
    path = _file(run_directory)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(asdict(place), indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)
    return place


def _file(run_directory: Path) -> Path:
    return run_directory / "trackers" / "mlflow" / "run.json"


def _read(path: Path) -> Place | None:
    try:
        body: Mapping[str, str] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return Place(**body)

"""Script: download one file from the hub; run by :mod:`llmforge_plugins._hub`.

Arguments: repository, file, revision, kind. Prints ``{"path": …}`` or ``{"missing": …}`` or
``{"unreachable": …}``.
"""

from __future__ import annotations

import json
import sys

import huggingface_hub
from huggingface_hub.errors import (
    EntryNotFoundError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import disable_progress_bars


def main() -> dict[str, str]:
    """Download and return what happened."""
    repository, name, revision, kind = sys.argv[1:]
    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        path = huggingface_hub.hf_hub_download(repository, name, revision=revision, repo_type=kind)
    except LocalEntryNotFoundError as error:
        return {"unreachable": str(error.__cause__ or error)}
    except (RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError) as error:
        return {"missing": str(error).strip().splitlines()[0]}
    except Exception as error:  # HTTP and TLS libraries have no common base
        return {"unreachable": f"{type(error).__name__}: {error}"}
    return {"path": str(path)}


if __name__ == "__main__":
    print(json.dumps(main()))

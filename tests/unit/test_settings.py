"""Settings of the environment and of ``.env``, and what is wrong with them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llmforge.errors import UsageError
from llmforge.settings import credential, settings


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("FORGE_RUN_ROOT", "FORGE_CACHE", "FORGE_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_the_environment_wins_over_the_file(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / ".env").write_text("FORGE_CACHE=from-file\nHF_HUB_OFFLINE=1\nOTHER=x\n")
    monkeypatch.setenv("FORGE_CACHE", "from-environment")
    found = settings()
    assert found.cache == Path("from-environment")
    assert found.offline
    assert found.run_root is None


def test_what_the_file_says_is_there_for_everyone_and_replaces_nothing(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / ".env").write_text("SERVICE_TOKEN=from-file\nSERVICE_URL=from-file\n")
    monkeypatch.setenv("SERVICE_URL", "from-environment")
    settings()
    assert os.environ["SERVICE_TOKEN"] == "from-file"
    assert os.environ["SERVICE_URL"] == "from-environment"
    assert credential("SERVICE_TOKEN") == "from-file"


def test_a_value_that_makes_no_sense_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORGE_OFFLINE", "perhaps")
    with pytest.raises(UsageError) as caught:
        settings()
    assert "FORGE_OFFLINE = 'perhaps' should be a valid boolean" in caught.value.message
    assert ".env" in caught.value.remedy


def test_a_file_that_is_no_text_is_named(place: Path) -> None:
    (place / ".env").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match=rf"{place}/\.env cannot be read"):
        settings()

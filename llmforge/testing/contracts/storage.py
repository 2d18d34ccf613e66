"""The contract of the kind ``storage``."""

from __future__ import annotations

import hashlib
import threading
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import pytest

from llmforge.component import Component
from llmforge.interfaces import Storage
from llmforge.testing.contracts.base import Contract, build


class StorageContract(Contract, ABC):
    """Whole files under names, created once where asked, nothing cached, moved in the open.

    Attributes:
        large: bytes of a file that is moved in several parts.
        writers: how many try to create one file at once.
    """

    large: ClassVar[int] = 20_000_000
    writers: ClassVar[int] = 8

    @abstractmethod
    def make_url(self, directory: Path) -> str:
        """Return the URL of an empty place; one below ``directory`` where that is possible."""

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        """The URL of the place under test."""
        return self.make_url(tmp_path)

    @pytest.fixture
    def storage(self, plugin: Component, url: str) -> Storage:
        """The place under test."""
        return _open(plugin, url)

    def test_its_address_shows_no_slash_at_the_end_and_no_login(
        self, plugin: Component, url: str
    ) -> None:
        opened = _open(plugin, f"{url}/")
        assert opened.url == url
        assert "@" not in opened.url

    def test_what_is_written_is_read_until_it_is_replaced(self, storage: Storage) -> None:
        for content in (b"first", b"the second one", b""):
            storage.write("a/b.txt", content)
            assert storage.read("a/b.txt") == content
            assert storage.size("a/b.txt") == len(content)

    def test_nothing_there_is_told_as_such(self, storage: Storage, tmp_path: Path) -> None:
        storage.write("folder/file", b"x")
        for name in ("missing", "folder/missing", "no/folder/either"):
            assert storage.size(name) is None
            with pytest.raises(FileNotFoundError):
                storage.read(name)
            with pytest.raises(FileNotFoundError):
                storage.get(name, tmp_path / "target", progress=_ignore)
        assert storage.size("folder") is None
        assert storage.names("missing") == storage.folders("missing") == []

    def test_creating_never_overwrites(self, storage: Storage) -> None:
        storage.create("a/COMMIT", b"first")
        with pytest.raises(FileExistsError):
            storage.create("a/COMMIT", b"second")
        assert storage.read("a/COMMIT") == b"first"

    def test_of_many_that_create_one_file_one_succeeds(self, plugin: Component, url: str) -> None:
        barrier = threading.Barrier(self.writers)

        def write(number: int) -> int | None:
            opened = _open(plugin, url)
            content = str(number).encode()
            barrier.wait(60)
            try:
                opened.create("race/COMMIT", content)
            except FileExistsError:
                return None
            return number

        with ThreadPoolExecutor(self.writers) as pool:
            won = [number for number in pool.map(write, range(self.writers)) if number is not None]
        assert len(won) == 1
        assert _open(plugin, url).read("race/COMMIT") == str(won[0]).encode()

    @pytest.mark.parametrize("size", [0, 10, None], ids=["empty", "small", "large"])
    def test_a_file_goes_there_and_comes_back(
        self, storage: Storage, tmp_path: Path, size: int | None
    ) -> None:
        content = _bytes(self.large if size is None else size)
        source, target = tmp_path / "source", tmp_path / "target"
        source.write_bytes(content)
        sent: list[int] = []
        threads: set[int] = set()

        def progress(moved: int) -> None:
            sent.append(moved)
            threads.add(threading.get_ident())

        storage.put(source, "deep/er/file", progress=progress)
        assert threads <= {threading.get_ident()}, "a bandwidth limit waits in the caller's thread"
        assert sum(sent) == len(content)
        assert storage.size("deep/er/file") == len(content)
        got: list[int] = []
        storage.get("deep/er/file", target, progress=got.append)
        assert target.read_bytes() == content
        assert sum(got) == len(content)
        digest = hashlib.sha256(content).hexdigest()
        assert storage.sha256("deep/er/file", progress=_ignore) == digest
        assert storage.same("deep/er/file", source, progress=_ignore) in (True, None)

    def test_an_upload_that_is_stopped_leaves_what_was_there(
        self, storage: Storage, tmp_path: Path
    ) -> None:
        class Stopped(Exception):
            pass

        def stop(_: int) -> None:
            raise Stopped

        source = tmp_path / "source"
        source.write_bytes(_bytes(self.large))
        with pytest.raises(Stopped):
            storage.put(source, "new", progress=stop)
        assert storage.size("new") in (None, self.large)
        storage.write("old", b"old")
        with pytest.raises(Stopped):
            storage.put(source, "old", progress=stop)
        assert storage.size("old") in (len(b"old"), self.large)

    def test_other_contents_are_never_called_the_same(
        self, storage: Storage, tmp_path: Path
    ) -> None:
        for size in (10, self.large):
            source = tmp_path / "source"
            source.write_bytes(_bytes(size))
            storage.put(source, "file", progress=_ignore)
            source.write_bytes(_bytes(size)[:-1] + b"!")
            assert storage.same("file", source, progress=_ignore) in (False, None)

    def test_it_lists_what_is_in_a_folder_and_nothing_beside_it(self, storage: Storage) -> None:
        names = ["run/a", "run/sub/b", "run/sub/sub/c", "run/sub/ü and a space"]
        for name in [*names, "run2/d", "other"]:
            storage.write(name, b"x")
        assert sorted(storage.names("run")) == names
        assert sorted(storage.names("run/sub")) == names[1:]
        assert len(storage.names("")) == 6
        assert sorted(storage.folders("")) == ["run", "run2"]
        assert storage.folders("run") == ["sub"]
        assert storage.folders("run/sub/sub") == []

    def test_deleting_takes_what_is_named_and_what_is_under_it(self, storage: Storage) -> None:
        for name in ("a/1", "a/sub/2", "ab/3", "file"):
            storage.write(name, b"x")
        storage.delete("a")
        storage.delete("file")
        storage.delete("missing")
        storage.delete("missing/too")
        assert storage.names("") == ["ab/3"]

    def test_it_sees_what_others_did_meanwhile(self, plugin: Component, url: str) -> None:
        mine, other = _open(plugin, url), _open(plugin, url)
        mine.write("x/a", b"1")
        assert (other.names("x"), other.folders(""), other.size("x/b")) == (["x/a"], ["x"], None)
        mine.write("x/a", b"22")
        mine.write("x/b", b"333")
        mine.write("y/c", b"")
        assert (other.read("x/a"), other.size("x/b")) == (b"22", 3)
        assert sorted(other.names("")) == ["x/a", "x/b", "y/c"]
        mine.delete("x")
        assert (other.names("x"), other.folders(""), other.size("x/a")) == ([], ["y"], None)

    def test_it_has_a_word_or_none_for_any_error(self, storage: Storage) -> None:
        for error in (PermissionError("no"), OSError(28, "full"), RuntimeError(), ValueError("x")):
            assert isinstance(storage.remedy(error), str)


def _open(plugin: Component, url: str) -> Storage:
    opened: Storage = build(plugin, "forge_open_storage", url=url)
    return opened


def _bytes(size: int) -> bytes:
    """Return ``size`` bytes in which no part equals another."""
    return b"".join(number.to_bytes(8, "big") for number in range(-(-size // 8)))[:size]


def _ignore(_: int) -> None:
    pass

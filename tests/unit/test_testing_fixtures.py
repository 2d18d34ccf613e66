"""The fixtures and stand-ins that plugin authors get."""

from __future__ import annotations

import pytest

from llmforge import Component, RunContext, hookimpl
from llmforge.testing import TinyData, TinyTokenizer, make_component, run_context


class Named(Component, kind="tracker"):
    """For a name."""

    @hookimpl
    def forge_run_end(self) -> None:
        pass


def test_the_run_context_has_directories_of_its_own(
    forge_run_context: RunContext, tmp_path
) -> None:
    assert forge_run_context.directory.is_dir()
    assert forge_run_context.cache.is_dir()
    assert tmp_path in forge_run_context.directory.parents


def test_the_run_context_takes_changes(tmp_path) -> None:
    run = run_context(tmp_path, train={"batch_size": 2}, seed=5)
    assert (run.train.batch_size, run.config["train"]["batch_size"], run.seed) == (2, 2, 5)


def test_a_recipe_is_written_without_its_indentation(forge_recipe) -> None:
    path = forge_recipe(
        """
        [train]
        max_steps = 3
        """,
        name="mine.toml",
    )
    assert path.name == "mine.toml"
    assert path.read_text().strip() == "[train]\nmax_steps = 3"


def test_forge_runs_in_the_tests_own_directory(forge_cli, tmp_path) -> None:
    forge_cli("plugins", "new", "thing")
    assert (tmp_path / "llmforge-thing").is_dir()


def test_an_unexpected_exit_code_fails_the_test_with_the_output(forge_cli) -> None:
    with pytest.raises(pytest.fail.Exception, match=r"exited with 2, not 0(?s:.*)unknown kind"):
        forge_cli("plugins", "list", "--kind", "x")
    assert "unknown kind" in forge_cli("plugins", "list", "--kind", "x", expect=2).stderr


def test_a_component_is_made_with_checked_options_and_a_name() -> None:
    assert make_component(Named).name == "named"
    assert make_component(Named, name="other").name == "other"
    with pytest.raises(ValueError, match="no_such_option"):
        make_component(Named, {"no_such_option": 1})


def test_the_tiny_tokenizer_is_lossless() -> None:
    tokenizer = TinyTokenizer()
    text = "".join(TinyData().iter_text("train")) + "ü"
    assert tokenizer.decode([*tokenizer.encode(text), 256]) == text


def test_tiny_data_is_known_by_its_text() -> None:
    assert TinyData().fingerprint == TinyData().fingerprint
    assert TinyData({"train": ["a"]}).fingerprint != TinyData({"train": ["b"]}).fingerprint


def test_an_unknown_name_of_the_package_is_an_attribute_error() -> None:
    import llmforge.testing

    assert not hasattr(llmforge.testing, "NoSuchContract")
    for name in llmforge.testing.__all__:
        assert getattr(llmforge.testing, name)

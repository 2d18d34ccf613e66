"""forge chat: what the model is given, what no longer fits, the commands, and the pipe."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from generate_parts import RECIPE, make_trained_run

from llmforge.cli.chat import WrappedText
from llmforge.data.chat_template import TEMPLATES
from llmforge.errors import UsageError
from llmforge.generation import LoadedModel, generate_texts, open_checkpoint
from llmforge.generation.chat_session import ChatSession
from llmforge.generation.conversation import Conversation, chat_prompts
from llmforge.interfaces import Message

LONG = RECIPE.replace("context = 64", "context = 256")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("runs")
    make_trained_run(base, "talk", recipe=LONG, template=TEMPLATES["alpaca"])
    make_trained_run(base, "text", recipe=LONG)
    return base


@pytest.fixture(scope="module")
def loaded(root: Path) -> LoadedModel:
    return open_checkpoint("talk", root=root, device="cpu")


def converse(loaded: LoadedModel, *lines: str, **fields: Any) -> tuple[Conversation, str, str]:
    """Return a conversation after ``lines``, what was written, and what was noted."""
    conversation = Conversation(
        loaded,
        loaded.recipe.selected("generation"),
        chat=chat_prompts(loaded, None),
        **{"system": None, "seed": 4, **fields},
    )
    coming = iter(lines)
    written: list[str] = []
    noted: list[str] = []

    def read() -> str:
        try:
            return next(coming)
        except StopIteration:
            raise EOFError from None

    ChatSession(
        conversation,
        read=read,
        write=written.append,
        end=lambda: written.append("\n"),
        note=noted.append,
    ).run()
    return conversation, "".join(written), "\n".join(noted)


def test_the_first_answer_is_that_of_generate(loaded: LoadedModel) -> None:
    _, written, _ = converse(loaded, "Say it.", system="Be kind.")
    (alone,) = generate_texts(loaded, ["Say it."], seed=4, chat=True, system="Be kind.")
    assert written == alone.text + "\n"


def test_later_answers_know_what_was_said(loaded: LoadedModel) -> None:
    conversation, _, _ = converse(loaded, "Say it.", "Again.", system="Be kind.")
    roles = [message.role for message in conversation.messages]
    assert roles == ["system", "user", "assistant", "user", "assistant"]
    first, answer = conversation.turns[:2]
    fresh, written, _ = converse(loaded, seed=5)
    assert written == ""
    fresh.turns += [first, answer]
    fresh.system = "Be kind."
    said: list[str] = []
    fresh.ask("Again.", write=said.append, note=lambda _: None)
    assert "".join(said) == conversation.turns[3].content


def test_what_no_longer_fits_is_left_out_and_said(loaded: LoadedModel) -> None:
    conversation, _, noted = converse(loaded, *(f"{n} " + "word " * 12 for n in range(5)))
    assert "no longer fit" in noted
    assert conversation.turns[0].content.startswith(("2", "3", "4"))
    assert conversation.turns[-2].content.startswith("4")


def test_a_message_that_can_never_fit_is_refused_and_not_remembered(loaded: LoadedModel) -> None:
    conversation, written, noted = converse(loaded, "Hello", "x" * 300)
    assert "shorten it" in noted
    assert len(conversation.turns) == 2
    assert written.count("\n") >= 1


def test_the_commands(loaded: LoadedModel, tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    other = tmp_path / "other.json"
    other.write_text("mine")
    conversation, _, noted = converse(
        loaded,
        "/undo",
        "Hello",
        "/undo",
        "/system Be kind.",
        "/temperature 0",
        "/temperature warm",
        "/temperature -1",
        "Hello",
        f"/save {file}",
        f"/save {file}",
        f"/save {other}",
        "/save",
        "/nonsense",
        "/help",
        "/quit",
        "never said",
    )
    assert "nothing was said yet" in noted
    assert "system message: Be kind." in noted
    assert conversation.selection.options.temperature == 0
    assert "takes a number, got 'warm'" in noted
    assert "temperature" in noted
    assert "unknown command '/nonsense'" in noted
    assert "Ctrl-C stops the answer" in noted
    assert f"{other} exists" in noted
    assert other.read_text() == "mine"
    saved = json.loads(file.read_text())["messages"]
    assert [item["role"] for item in saved] == ["system", "user", "assistant"]
    assert len(conversation.turns) == 2


def test_nothing_is_saved_before_the_first_answer(loaded: LoadedModel, tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    _, _, noted = converse(loaded, f"/save {file}", system="Be kind.")
    assert "nothing to save: the model has not answered yet" in noted
    assert not file.exists()


def test_reset_forgets_and_system_without_text_takes_it_back(loaded: LoadedModel) -> None:
    conversation, _, _ = converse(loaded, "Hello", "/reset", "/system", system="Be kind.")
    assert conversation.messages == []


def test_an_interrupted_answer_stays_as_far_as_it_was_written(loaded: LoadedModel) -> None:
    conversation, _, _ = converse(loaded)
    said: list[str] = []

    def write(piece: str) -> None:
        said.append(piece)
        if len(said) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        conversation.ask("Hello", write=write, note=lambda _: None)
    assert conversation.turns[1] == Message(role="assistant", content="".join(said))


def test_ctrl_c_ends_the_answer_and_not_the_chat(loaded: LoadedModel) -> None:
    noted: list[str] = []
    lines = iter(["Hello", "/reset"])
    raised: list[bool] = []

    def write(piece: str) -> None:
        raised.append(True)
        raise KeyboardInterrupt

    def read() -> str:
        for line in lines:
            return line
        raise EOFError

    conversation, _, _ = converse(loaded)
    ended: list[bool] = []
    ChatSession(
        conversation, read=read, write=write, end=lambda: ended.append(True), note=noted.append
    ).run()
    assert raised
    assert ended
    assert noted == ["stopped", "what was said is forgotten"]


def test_a_run_without_a_template_is_told_what_to_do(root: Path) -> None:
    plain = open_checkpoint("text", root=root, device="cpu")
    with pytest.raises(UsageError, match="no chat template") as caught:
        chat_prompts(plain, None)
    assert "forge generate text" in caught.value.remedy
    assert chat_prompts(plain, "alpaca").encode([Message(role="user", content="x")])


def run(root: Path, *arguments: str, lines: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "llmforge", "chat", *arguments, "--root", str(root)],
        input=lines,
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_over_a_pipe_only_answers_go_to_standard_output(root: Path, loaded: LoadedModel) -> None:
    done = run(root, "talk", "--seed", "4", "--temperature", "0", lines="Say it.\n/reset\n\n")
    assert done.returncode == 0, done.stderr
    (alone,) = generate_texts(loaded, ["Say it."], seed=4, chat=True, temperature=0.0)
    assert done.stdout == alone.text + "\n"
    assert "forgotten" in done.stderr
    failed = run(root, "talk", "--max-new-tokens", "1", lines="/temperature -3\nSay it.\n")
    assert failed.returncode == 1
    assert "/temperature: " in failed.stderr
    assert failed.stdout.count("\n") == 1
    refused = run(root, "text", lines="x\n")
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr
    assert "--template chatml" in refused.stderr


def wrapped(*pieces: str, width: int = 20) -> str:
    shown: list[str] = []
    text = WrappedText(shown.append, width=lambda: width)
    for piece in pieces:
        text.write(piece)
    text.end()
    return "".join(shown)


@pytest.mark.parametrize("cut", [lambda text: [text], list])
def test_lines_break_between_words(cut: Callable[[str], list[str]]) -> None:
    text = "one two three four five six seven eight\nnine"  # eight is the 20th column
    assert wrapped(*cut(text)) == "one two three four \nfive six seven eight\nnine\n"


def test_text_without_spaces_does_not_wait_for_one() -> None:
    shown: list[str] = []
    text = WrappedText(shown.append, width=lambda: 20)
    text.write("漢字")
    assert "".join(shown) == "漢字"
    text.write("x" * 30)
    assert len("".join(shown)) > 20

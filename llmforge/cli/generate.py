"""``forge generate``: continue prompts with a trained model."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from llmforge.cli import options, sampling_options
from llmforge.cli.common import (
    console,
    emit_json,
    error_console,
    interactive,
    run_or_newest,
    run_root,
)
from llmforge.errors import UsageError
from llmforge.printable import decoded, printable

if TYPE_CHECKING:
    from llmforge.data.prompts import PromptLayout
    from llmforge.generation import LoadedModel
    from llmforge.interfaces import Completion
    from llmforge.recipe import GenerationRecipe, Selection
    from llmforge.recipe.schema import GenerationKeys

_PROMPTS = "Prompts"
_OUTPUT = "Output"

Checkpoint = Annotated[
    str | None,
    options.argument(
        "RUN_OR_CHECKPOINT",
        "RUN, RUN@best, RUN@last, RUN@STEP or a path; the newest run when left out. "
        "Also mlflow:ID and wandb:ENTITY/PROJECT/ID, fetched if not here.",
    ),
]
Prompts = Annotated[
    list[str] | None,
    options.option(
        "--prompt",
        "-p",
        help="Text to continue, or - for standard input. Repeatable.",
        panel=_PROMPTS,
    ),
]
PromptsFile = Annotated[
    Path | None,
    options.option("--prompts-file", help="A file with one prompt per line.", panel=_PROMPTS),
]
RecipeFile = Annotated[
    str | None,
    options.option(
        "--recipe",
        help="A recipe with \\[generation]: checkpoint, prompts, options.",
        panel=_PROMPTS,
    ),
]
Chat = Annotated[
    bool | None,
    options.option(
        "--chat/--raw",
        help="Prompts are messages to answer, laid out by the run's chat template, or text to "
        "continue. [default: --chat where the run has a template]",
        panel=_PROMPTS,
    ),
]
System = Annotated[
    str | None,
    options.option("--system", help="System message before each prompt.", panel=_PROMPTS),
]
Tests = Annotated[
    str | None,
    options.option(
        "--tests",
        help="A file of prompts with checks, a JSON object a line; shows what holds of each text.",
        panel=_PROMPTS,
    ),
]
Compare = Annotated[
    tuple[str, str] | None,
    options.option(
        "--compare",
        metavar="RUN_A RUN_B",
        help="Put --tests, or those of the first run's recipe, to two runs or checkpoints.",
        panel=_PROMPTS,
    ),
]
Samples = Annotated[
    int | None,
    options.option("--samples", "-n", help="Continuations per prompt.", panel=_PROMPTS, min=1),
]
AsJson = Annotated[bool, options.option("--json", help="Print one JSON document.", panel=_OUTPUT)]
Stream = Annotated[
    bool,
    options.option(
        "--stream/--no-stream", help="Show a single text while it is generated.", panel=_OUTPUT
    ),
]


def generate(
    checkpoint: Checkpoint = None,
    prompt: Prompts = None,
    prompts_file: PromptsFile = None,
    recipe: RecipeFile = None,
    chat: Chat = None,
    system: System = None,
    tests: Tests = None,
    compare: Compare = None,
    samples: Samples = None,
    max_new_tokens: sampling_options.MaxNewTokens = None,
    temperature: sampling_options.Temperature = None,
    top_k: sampling_options.TopK = None,
    top_p: sampling_options.TopP = None,
    min_p: sampling_options.MinP = None,
    repetition_penalty: sampling_options.RepetitionPenalty = None,
    stop: sampling_options.Stop = None,
    greedy: sampling_options.Greedy = None,
    lookup: sampling_options.Lookup = None,
    seed: sampling_options.Seed = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    weights: options.Weights = None,
    root: options.Root = None,
    as_json: AsJson = False,
    stream: Stream = True,
) -> None:
    """Continue or answer prompts with a trained model.

    Text that is piped in is the prompt. Without any it is an interactive session on a terminal,
    else the recipe's own prompts.
    Only generated text goes to standard output.
    """
    changes = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "stop": stop or None,
        "greedy": greedy,
        "lookup": lookup,
    }
    job = _Job(
        recipe=_read_recipe(recipe),
        checkpoint=checkpoint,
        root=root,
        changes={key: value for key, value in changes.items() if value is not None},
        chat=chat,
        system=None if system is None else decoded(system),
        samples=samples,
        seed=seed,
        stream=stream and not as_json,
        as_json=as_json,
    )
    if tests is not None or compare is not None:
        _refuse_prompts(prompt, prompts_file, samples, compare, checkpoint)
        job.test(tests, compare, device=device, dtype=dtype, weights=weights)
        return
    if not prompt and prompts_file is None and _is_piped():
        prompt = ["-"]
    prompts = _read_prompts(prompt or [], prompts_file)
    job.run(prompts, device=device, dtype=dtype, weights=weights)


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What one call of the command shall do."""

    recipe: GenerationRecipe | None
    checkpoint: str | None
    root: Path | None
    changes: dict[str, Any]
    chat: bool | None
    system: str | None
    samples: int | None
    seed: int | None
    stream: bool
    as_json: bool

    def run(self, prompts: Sequence[str], *, device: str, dtype: str, weights: Path | None) -> None:
        from llmforge.generation import changed_options, open_checkpoint

        address, root = self._address()
        loaded = open_checkpoint(
            address,
            root=root,
            device=device,
            dtype=dtype,
            weights=weights,
            notice=_note,
            say=_note,
        )
        keys = self.recipe.generation if self.recipe else loaded.recipe.generation
        selection = self.recipe.generator if self.recipe else loaded.recipe.selected("generation")
        selection = changed_options(selection, self.changes)
        converse = interactive() and not self.as_json
        if not prompts and (self.recipe or not converse):
            prompts = keys.prompts
        _note(str(loaded))
        if loaded.int8 is not None:
            from llmforge.int8_quality import describe_int8

            describe_int8(loaded, note=_note)
        if prompts:
            self._print(loaded, selection, keys, prompts)
        elif converse:
            _converse(
                loaded,
                selection,
                seed=self._seed(keys),
                chat=self._chat(loaded, keys),
                system=self.system or keys.system,
            )
        else:
            raise UsageError(
                "there is no prompt",
                remedy="give --prompt TEXT, or set generation.prompts in the recipe",
            )

    def test(
        self,
        file: str | None,
        compare: tuple[str, str] | None,
        *,
        device: str,
        dtype: str,
        weights: Path | None,
    ) -> None:
        """Put tests to one model, or to two, and print what they responded."""
        from llmforge.generation.tests import run_tests

        address, root = self._address(compare)
        done = run_tests(
            compare or (address,),
            root=root,
            file=file,
            recipe=self.recipe,
            changes=self.changes,
            chat=self.chat,
            system=self.system,
            seed=self.seed,
            loading={"device": device, "dtype": dtype, "weights": weights},
            note=_note,
        )
        if self.as_json:
            emit_json({"runs": done})
            return
        from llmforge.cli.generation_test_views import print_comparison, print_report

        if compare is None:
            print_report(console(), done[0])
            return
        names = {f"{item['run']}@{item['step']}": item for item in done}
        if len(names) < len(done):  # the same checkpoint at two addresses
            names = dict(zip(compare, done, strict=True))
        print_comparison(console(), [item["prompt"] for item in done[0]["tests"]], names)

    def _address(self, compare: tuple[str, str] | None = None) -> tuple[str, Path]:
        """Return what to sample from, and where runs are: flags, then the recipe, then defaults."""
        root, address = self.root, self.checkpoint
        if self.recipe is not None:
            root = root or Path(self.recipe.run.root).expanduser()  # FORGE_RUN_ROOT is in it
            address = address or self.recipe.generation.checkpoint
        root = run_root(root)
        if compare is not None:
            return compare[0], root
        if address is None:
            address = run_or_newest(root, None).id
        return address, root

    def _seed(self, keys: GenerationKeys) -> int:
        return keys.seed if self.seed is None else self.seed

    def _chat(self, loaded: LoadedModel, keys: GenerationKeys) -> PromptLayout | None:
        from llmforge.data.prompts import chosen

        return chosen(loaded.chat, wanted=keys.chat if self.chat is None else self.chat)

    def _print(
        self,
        loaded: LoadedModel,
        selection: Selection,
        keys: GenerationKeys,
        prompts: Sequence[str],
    ) -> None:
        from llmforge.data.prompts import prompt_request
        from llmforge.generation.text import StreamedText, build_generator

        samples = self.samples or keys.samples
        chat = self._chat(loaded, keys)
        show_prompt = _show_prompt if chat is None else _show_message
        shown: StreamedText | None = None
        if self.stream and len(prompts) * samples == 1:
            shown = StreamedText(prompts[0], begin=show_prompt, write=_write)
        request = prompt_request(
            prompts,
            chat=chat,
            system=self.system or keys.system,
            samples=samples,
            seed=self._seed(keys),
            on_text=shown,
        )
        completions = build_generator(loaded, selection).generate(request)
        if self.as_json:
            _print_json(loaded, selection, request.seed, completions)
        elif shown is not None:
            shown.end()
        else:
            _print_texts(completions, show_prompt)


def _refuse_prompts(
    prompt: Sequence[str] | None,
    prompts_file: Path | None,
    samples: int | None,
    compare: tuple[str, str] | None,
    checkpoint: str | None,
) -> None:
    """Refuse what tests leave no place for."""
    given = {"--prompt": prompt, "--prompts-file": prompts_file, "--samples": samples}
    if wrong := [flag for flag, value in given.items() if value]:
        raise UsageError(f"{wrong[0]} cannot be combined with tests", remedy="leave one out")
    if compare is not None and checkpoint is not None:
        raise UsageError(
            f"--compare names two runs, and {checkpoint} is a third", remedy="leave one out"
        )


def _read_recipe(source: str | None) -> GenerationRecipe | None:
    from llmforge.recipe import load_generation

    return None if source is None else load_generation(source)


def _is_piped() -> bool:
    """Return whether standard input is a pipe or a file: then it has the prompt."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)


def _read_prompts(given: Sequence[str], file: Path | None) -> list[str]:
    texts = (sys.stdin.read().removesuffix("\n") if text == "-" else text for text in given)
    prompts = [decoded(text) for text in texts if text or "-" not in given]
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--prompts-file {file} cannot be read: {error}") from error
        found = [line for line in lines if line.strip()]
        if not found:
            raise UsageError(f"--prompts-file {file} holds no prompt", remedy="write one per line")
        prompts += found
    return prompts


def _converse(
    loaded: LoadedModel,
    selection: Selection,
    *,
    seed: int,
    chat: PromptLayout | None,
    system: str | None,
) -> None:
    with contextlib.suppress(ImportError):  # Windows' own console has as much
        import readline  # noqa: F401  # input() then has history and editing

    from llmforge.generation.session import Session

    what = "text to continue" if chat is None else "message to answer"
    _note(f"type a {what}; /help lists the commands, Ctrl-D leaves")

    def read() -> str:
        try:
            return input("> ")
        except (EOFError, KeyboardInterrupt):
            _write("\n")
            raise

    session = Session(
        loaded,
        selection,
        seed=seed,
        chat=chat,
        system=system,
        read=read,
        write=_write,
        begin=_show_prompt if chat is None else lambda _: None,
        note=_note,
    )
    session.run()


def _print_json(
    loaded: LoadedModel, selection: Selection, seed: int, completions: Sequence[Completion]
) -> None:
    from dataclasses import asdict

    from llmforge.options import plain

    document = {
        "run": loaded.run.id,
        "step": loaded.checkpoint.step,
        "checkpoint": str(loaded.checkpoint.path),
        "seed": seed,
        "options": plain(selection.options),
        "completions": [asdict(completion) for completion in completions],
    }
    emit_json(document)


def _print_texts(completions: Sequence[Completion], show_prompt: Callable[[str], None]) -> None:
    for index, completion in enumerate(completions):
        _write("\n" if index else "")
        show_prompt(completion.prompt)
        _write(completion.text + "\n")


def _show_prompt(prompt: str) -> None:
    bold = sys.stdout.isatty()
    sys.stdout.write(f"\033[1m{printable(prompt)}\033[0m" if bold else prompt)
    sys.stdout.flush()


def _show_message(text: str) -> None:
    """Show what is answered, on lines of its own."""
    _show_prompt(text)
    _write("\n")


def _write(text: str) -> None:
    sys.stdout.write(printable(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def _note(text: str) -> None:
    error_console().print(text, style="dim")

"""``forge runs tag``, ``note`` and ``rename``: what people say about a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from llmforge.cli import options
from llmforge.cli.common import echo, emit_json, run_root
from llmforge.rundir import RunDirectory, find_run, read_record
from llmforge.rundir.annotations import read_annotations, write_annotations

_LONGEST_NAME = 200
_TAG_HELP = "+TAG adds a tag, -TAG takes it off; none: print the tags."


def tag(
    run: options.Run,
    changes: Annotated[list[str] | None, options.argument("+TAG|-TAG", _TAG_HELP)] = None,
    as_json: options.AsJson = False,
    root: options.Root = None,
) -> None:
    """Tag a run, or print its tags."""
    from llmforge.errors import UsageError

    directory = _own(root, run)
    own = read_record(directory).tags
    said = read_annotations(directory)
    wrong = [text for text in changes or () if text[:1] not in ("+", "-") or not text[1:].strip()]
    if wrong:
        raise UsageError(
            f"'{wrong[0]}': neither a tag to add nor one to take off",
            remedy=f"write +{wrong[0] or 'base'} or -{wrong[0] or 'base'}",
        )
    if changes:
        add = [text[1:].strip() for text in changes if text[0] == "+"]
        remove = [text[1:].strip() for text in changes if text[0] == "-"]
        missing = [item for item in remove if item not in said.tags(own)]
        if missing:
            raise UsageError(
                f"{directory.id} has no tag '{missing[0]}'",
                remedy=f"its tags: {', '.join(said.tags(own)) or 'none'}",
            )
        said = said.tagged(own, add=add, remove=remove)
        write_annotations(directory, said)
    tags = said.tags(own)
    if as_json:
        emit_json({"id": directory.id, "tags": tags})
    else:
        echo(f"{directory.id}: {', '.join(tags) or 'no tags'}")


tag.context_settings = {"ignore_unknown_options": True}  # type: ignore[attr-defined]


def note(
    run: options.Run,
    text: Annotated[
        str | None,
        options.argument("TEXT", "The note; '' removes it, absent: print it."),
    ] = None,
    root: options.Root = None,
) -> None:
    """Write a note about a run, or print it."""
    import dataclasses

    from llmforge.rundir import entry_of

    directory = _own(root, run)
    if text is not None:
        said = read_annotations(directory)
        write_annotations(directory, dataclasses.replace(said, note=text))
    found = entry_of(directory).note
    echo(f"{directory.id}: {found}" if found else f"{directory.id} has no note")


def rename(
    run: options.Run,
    name: Annotated[str, options.argument("NAME", "The new display name.")],
    root: options.Root = None,
) -> None:
    """Give a run another display name; its id, by which commands find it, stays."""
    import dataclasses

    from llmforge.errors import UsageError

    name = name.strip()
    if not name:
        raise UsageError("a name needs at least one letter")
    if len(name) > _LONGEST_NAME or not name.isprintable():
        raise UsageError(
            f"a name is one line of at most {_LONGEST_NAME} characters",
            remedy="'forge runs note' takes longer texts",
        )
    directory = _own(root, run)
    before = read_annotations(directory).name or read_record(directory).name
    said = dataclasses.replace(read_annotations(directory), name=name)
    write_annotations(directory, said)
    echo(f"{directory.id} is now called '{name}', before '{before}'")


def _own(root: Path | None, run: str) -> RunDirectory:
    """Return a run whose directory is here."""
    return find_run(run_root(root), run)

"""``forge mcp`` as a process, asked by the official client over standard input and output."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

from llmforge.rundir import RunRecord


def asked(root: Path, *questions: tuple[str, dict[str, Any]]) -> tuple[list[Any], list[Any]]:
    """Return the tools of a server that is started for it, and its answers."""
    server = StdioServerParameters(
        command=sys.executable,
        args=["-m", "llmforge", "mcp", "--root", str(root)],
        env=dict(os.environ),
    )

    async def ask() -> tuple[list[Any], list[Any]]:
        async with Client(stdio_client(server)) as client:
            tools = await client.list_tools()
            return tools.tools, [await client.call_tool(*question) for question in questions]

    return asyncio.run(asyncio.wait_for(ask(), timeout=60))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    place = tmp_path / "runs" / "first"
    place.mkdir(parents=True)
    record = RunRecord("first", state="completed", step=7, total_steps=7, created=1e9)
    (place / "run.json").write_text(json.dumps(vars(record)), encoding="utf-8")
    return place.parent


def test_an_assistant_lists_tools_that_only_read_and_gets_answers(root: Path) -> None:
    tools, (listed, shown, wrong) = asked(
        root,
        ("list_runs", {"where": "step >= 7"}),
        ("show_run", {"run": "first"}),
        ("show_run", {"run": "second"}),
    )
    assert {"list_runs", "show_run", "read_metrics", "compare_runs"} <= {t.name for t in tools}
    assert all(tool.annotations.read_only_hint for tool in tools)
    assert json.loads(listed.content[0].text)["matching"] == 1
    assert json.loads(shown.content[0].text)["state"] == "completed"
    assert wrong.is_error
    assert "no run 'second'" in wrong.content[0].text
    assert "Traceback" not in wrong.content[0].text

"""llama.cpp computes from the exported files what the model does.

Its package for Python has no wheel, so it is looked for in this Python, or in the one that
``LLAMA_CPP_PYTHON`` names: an environment of its own is enough.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from export_parts import OWN, untrained

from llmforge.export import export_folder
from llmforge.generation import load_checkpoint

pytestmark = pytest.mark.slow

READ = """
import json, sys
from llama_cpp import GGML_TYPE_F32, Llama

ids, count = json.loads(sys.argv[2]), int(sys.argv[3])
exact = {"type_k": GGML_TYPE_F32, "type_v": GGML_TYPE_F32}  # its cache is fp16 else
llama = Llama(sys.argv[1], n_ctx=48, n_threads=1, logits_all=True, verbose=False, **exact)
llama.eval(ids)
logits = llama.scores[: len(ids)].tolist()
llama.reset()
greedy = []
for token in llama.generate(ids, temp=0.0):
    greedy.append(int(token))
    if len(greedy) == count:
        break
print(json.dumps({"logits": logits, "greedy": greedy}))
"""
PROMPT = [84, 104, 101, 32, 114, 105, 118, 101, 114, 7, 200, 31, 9, 9, 150, 66]
GREEDY = 16
GELU = 2e-3
"""What llama.cpp's GELU, a table in fp16, is off by in the end."""


@functools.cache
def llama_python() -> str | None:
    """Return a Python that has llama_cpp."""
    for python in (sys.executable, os.environ.get("LLAMA_CPP_PYTHON")):
        if python is None:
            continue
        done = subprocess.run([python, "-c", "import llama_cpp"], capture_output=True, check=False)
        if done.returncode == 0:
            return python
    return None


def read_by_llama_cpp(file: Path) -> dict[str, Any]:
    python = llama_python()
    if python is None:
        pytest.skip("no Python with llama_cpp; LLAMA_CPP_PYTHON names one")
    done = subprocess.run(
        [python, "-c", READ, str(file), json.dumps(PROMPT), str(GREEDY)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def greedily(model: Any, count: int) -> list[int]:
    ids = list(PROMPT)
    with torch.inference_mode():
        for _ in range(count):
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return ids[len(PROMPT) :]


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("fp32", 1e-4), ("fp16", 5e-3), ("bf16", 0.05), ("q8_0", 0.2)]
)
@pytest.mark.parametrize("name", [name for name in OWN if name != "gpt2-exact-untied"])
def test_its_logits_and_greedy_tokens_are_the_models(
    tmp_path: Path, name: str, dtype: str, tolerance: float
) -> None:
    checkpoint = untrained(tmp_path / "run", OWN[name])
    export_folder(checkpoint, tmp_path / "out", layout="gguf", dtype=dtype)
    found = read_by_llama_cpp(tmp_path / "out" / "model.gguf")
    own: Any = load_checkpoint(checkpoint, device="cpu", dtype="fp32").model
    with torch.inference_mode():
        wanted = own(torch.tensor([PROMPT]))[0].float()
    logits = torch.tensor(found["logits"])[:, : wanted.shape[1]]
    if name.startswith("gpt"):
        tolerance = max(tolerance, GELU)
    torch.testing.assert_close(logits, wanted, rtol=0, atol=tolerance)
    if dtype == "fp32":
        assert found["greedy"] == greedily(own, GREEDY)

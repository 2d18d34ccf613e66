"""An optimizer's step costs less than the passes it follows, whether or not bf16 is native."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from bf16_emulated import WITHOUT_BF16


@pytest.mark.parametrize("environment", [{}, WITHOUT_BF16], ids=["as it is", "without bf16"])
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_step_costs_less_than_a_forward_and_backward_pass(
    name: str, environment: dict[str, str], tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("optimizer_cost.py")), name, str(tmp_path)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ratio, precision = done.stdout.split()
    assert float(ratio) < 1.0
    if environment and sys.platform == "linux" and os.uname().machine == "x86_64":
        assert precision == "fp32"

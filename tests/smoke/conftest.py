"""Experiments that several tests start from or compare with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fault_package import install_faults
from forge_process import Workplace

Reference = Callable[[str], Workplace]


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """Return a function from a precision to a run that nothing disturbed; not to be changed."""
    known: dict[str, Workplace] = {}

    def trained(precision: str) -> Workplace:
        if precision not in known:
            path = tmp_path_factory.mktemp(f"reference-{precision}")
            workplace = Workplace(path, {"train.precision": precision})
            workplace.train()
            known[precision] = workplace
        return known[precision]

    return trained


@pytest.fixture(scope="session")
def halfway(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """A run in fp32 stopped at step 31, with checkpoints of steps 30 and 31; not to be changed."""
    workplace = Workplace(tmp_path_factory.mktemp("halfway"))
    workplace.train_here("--set", "train.stop_at=31")
    assert [path.name for path in workplace.checkpoints] == ["step-00000030", "step-00000031"]
    return workplace


@pytest.fixture(scope="session")
def faults(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The PYTHONPATH on which the fault-injecting plugins are installed."""
    return install_faults(tmp_path_factory.mktemp("faults"))


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    """A fresh place to train in."""
    return Workplace(tmp_path / "place")


@pytest.fixture(scope="session")
def _trained(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """A run of 12 steps with checkpoints of steps 10 and 12, the last one the best."""
    settings = {"train.max_steps": "12", "run.notes": "to be deployed"}
    workplace = Workplace(tmp_path_factory.mktemp("trained"), settings)
    workplace.train_here()
    return workplace


@pytest.fixture
def trained(_trained: Workplace, tmp_path: Path) -> Workplace:
    """A copy of that run, to be deployed."""
    return _trained.copy(tmp_path / "trained")

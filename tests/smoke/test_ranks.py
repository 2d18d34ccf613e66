"""Two processes train one run: signals, kills and errors of any of them, and the same end again."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from forge_process import PATIENCE_SECONDS, Workplace, environment, logged
from ranks import TWO, as_slurm_would, pids, send, wait_until_gone

MIDDLE = logged("step 16/60")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """A run of two processes that nothing disturbed; not to be changed."""
    workplace = Workplace(tmp_path_factory.mktemp("two"))
    output = workplace.train(*TWO).output
    assert "batch 8 = 4 per micro-batch x 1 accumulated x 2 ranks" in output
    assert output.count("run tiny: new run") == 1
    return workplace


def test_sigterm_to_one_rank_stops_all_at_one_step_and_the_run_goes_on(
    tmp_path: Path, undisturbed: Workplace
) -> None:
    workplace = Workplace(tmp_path)
    process = workplace.start(*TWO)
    assert process.wait_for(MIDDLE)
    send(process, signal.SIGTERM, rank=1)
    output = process.finish(expect=75).output
    assert output.count("stopped by SIGTERM at step") == 1
    step = workplace.record["step"]
    assert workplace.checkpoints[-1].name == f"step-{step:08}"
    workplace.train(*TWO)
    assert workplace.result() == undisturbed.result()
    assert workplace.train(*TWO).output.count("already completed") == 1


def test_a_batch_that_ranks_cannot_share_is_told_once(tmp_path: Path) -> None:
    workplace = Workplace(tmp_path, {"train.batch_size": "7", "train.micro_batch_size": "1"})
    output = workplace.train(*TWO, expect=2).output
    assert output.count("7 sequences cannot be divided among 2 ranks") == 1
    assert "Traceback" not in output


@pytest.mark.slow
def test_sigterm_to_the_launcher_reaches_every_rank(tmp_path: Path, undisturbed: Workplace) -> None:
    workplace = Workplace(tmp_path)
    process = workplace.start(*TWO)
    assert process.wait_for(MIDDLE)
    process.process.send_signal(signal.SIGTERM)
    process.finish(expect=75)
    workplace.train(*TWO)
    assert workplace.result() == undisturbed.result()


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_ends_the_others_and_leaves_no_trace(
    tmp_path: Path, undisturbed: Workplace, rank: int
) -> None:
    workplace = Workplace(tmp_path)
    process = workplace.start(*TWO)
    assert process.wait_for(MIDDLE)
    send(process, signal.SIGKILL, rank=rank)
    output = process.finish(expect=1).output
    assert output.count(f"rank {rank} was killed by SIGKILL") == 1
    assert output.count("forge: ") == 1
    workplace.train(*TWO)
    assert workplace.result() == undisturbed.result()


@pytest.mark.slow
def test_ranks_save_and_end_when_their_launcher_is_killed(
    tmp_path: Path, undisturbed: Workplace
) -> None:
    workplace = Workplace(tmp_path)
    process = workplace.start(*TWO)
    assert process.wait_for(MIDDLE)
    ranks = pids(process)
    process.kill()
    wait_until_gone(ranks)
    assert workplace.record["state"] == "interrupted"
    workplace.train(*TWO)
    assert workplace.result() == undisturbed.result()


@pytest.mark.slow
def test_a_failed_rank_is_started_again_if_that_is_wished(
    tmp_path: Path, undisturbed: Workplace
) -> None:
    workplace = Workplace(tmp_path)
    process = workplace.start(*TWO, "--max-restarts", "1")
    assert process.wait_for(MIDDLE)
    send(process, signal.SIGKILL, rank=1)
    process.finish(expect=0)
    assert workplace.record["restarts"] == 2
    assert workplace.result() == undisturbed.result()


@pytest.mark.slow
def test_a_rank_that_hangs_ends_the_run_within_its_timeout(
    tmp_path: Path, undisturbed: Workplace
) -> None:
    workplace = Workplace(tmp_path, {"backend.timeout_seconds": "4"})
    process = workplace.start(*TWO)
    assert process.wait_for(MIDDLE)
    send(process, signal.SIGSTOP, rank=1)
    # 4 seconds until it is given up, 30 that torchrun's launcher gives it before it is killed.
    output = process.finish(expect=1, within=90).output
    assert output.count("forge: ") == 1
    workplace.train(*TWO)
    assert workplace.result() == undisturbed.result()


@pytest.mark.slow
def test_torchrun_and_slurm_start_the_same_run(tmp_path: Path, undisturbed: Workplace) -> None:
    torchrun = Workplace(tmp_path / "torchrun")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, "-m", "llmforge", "train", "recipe.toml"],
        cwd=torchrun.path,
        env=environment(torchrun),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    assert torchrun.result() == undisturbed.result()
    slurm = Workplace(tmp_path / "slurm")
    tasks = as_slurm_would(slurm, (), ())
    outputs = [task.communicate(timeout=PATIENCE_SECONDS)[0] for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], outputs
    assert outputs[1] == ""
    assert slurm.result() == undisturbed.result()


@pytest.mark.slow
def test_two_launchers_are_two_machines(tmp_path: Path, undisturbed: Workplace) -> None:
    workplace = Workplace(tmp_path)
    meeting = ("--nnodes", "2", "--rdzv-endpoint", f"127.0.0.1:{_free_port()}")
    second = subprocess.Popen(
        [sys.executable, "-m", "llmforge", "train", "recipe.toml", *meeting, "--node-rank", "1"],
        cwd=workplace.path,
        env=environment(workplace),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    first = workplace.start(*meeting, "--node-rank", "0").finish(expect=0)
    output, _ = second.communicate(timeout=PATIENCE_SECONDS)
    assert (second.returncode, output) == (0, "")
    assert "tiny: completed" in first.output
    assert workplace.result() == undisturbed.result()


@pytest.mark.slow
def test_an_error_of_one_rank_ends_all_and_is_told_once_with_its_rank(tmp_path: Path) -> None:
    workplace = Workplace(tmp_path)
    tasks = as_slurm_would(workplace, (), ("--set", 'train.device="cuda"'))
    outputs = [task.communicate(timeout=PATIENCE_SECONDS)[0] for task in tasks]
    assert [task.returncode for task in tasks] == [2, 2], outputs
    told = "".join(outputs)
    assert told.count("forge: ") == 1
    assert "rank 1: train.device: 'cuda' is not available" in told
    assert workplace.record["exit_reason"].startswith("rank 1: train.device: 'cuda'")
    assert "preparing data" not in told


SHARDED = {
    "fsdp": {"backend.name": "fsdp"},
    "zero-3": {"backend.name": "deepspeed", "backend.deepspeed.stage": "3"},
}


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Workplace]:
    """Return a function from a sharding backend to a run that nothing disturbed."""
    known: dict[str, Workplace] = {}

    def trained(name: str) -> Workplace:
        if name not in known:
            known[name] = Workplace(tmp_path_factory.mktemp(name), SHARDED[name])
            known[name].train(*TWO)
        return known[name]

    return trained


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("event", ["kill a rank", "kill the launcher", "stop a rank"])
@pytest.mark.parametrize("backend", list(SHARDED))
def test_runs_in_shards_go_on_to_the_same_end(
    tmp_path: Path, sharded: Callable[[str], Workplace], backend: str, event: str
) -> None:
    workplace = Workplace(tmp_path, SHARDED[backend])
    process = workplace.start(*TWO)
    assert process.wait_for(MIDDLE)
    ranks = pids(process)
    if event == "kill the launcher":
        process.kill()
    elif event == "kill a rank":
        send(process, signal.SIGKILL, rank=1)
        process.finish(expect=1)
    else:
        send(process, signal.SIGTERM, rank=1)
        process.finish(expect=75)
    wait_until_gone(ranks)
    workplace.train(*TWO)
    assert ended(workplace) == ended(sharded(backend))


def ended(workplace: Workplace) -> dict[str, bytes]:
    """Return what runs in shards that end alike have in common."""
    shards = sorted(workplace.checkpoints[-1].glob("*.safetensors"))
    assert len(shards) == 4
    files = [*shards, workplace.run.metrics, workplace.run.samples]
    return {path.name: path.read_bytes() for path in files}


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])

"""Which process of how many this is, as torchrun, Kubernetes and Slurm say it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from llmforge.distributed.environment import Place, find_place, first_host
from llmforge.errors import UsageError

TORCHRUN = {
    "RANK": "5",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "8",
    "LOCAL_WORLD_SIZE": "4",
    "GROUP_RANK": "1",
    "MASTER_ADDR": "node0",
    "MASTER_PORT": "29500",
}
SLURM = {
    "SLURM_JOB_ID": "4242",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "3",
    "SLURM_NTASKS": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2),1",
    "SLURM_STEP_NODELIST": "gpu[07-08,11],big1",
}


def test_without_variables_a_process_is_alone_and_leads() -> None:
    assert find_place({}) == Place()
    assert find_place({}).is_leader


def test_torchruns_variables_are_taken_as_they_are() -> None:
    assert find_place(TORCHRUN) == Place(
        rank=5, local_rank=1, world_size=8, local_world_size=4, node=1, master=("node0", 29500)
    )


def test_an_operator_of_kubernetes_gives_each_process_its_own_container() -> None:
    given = {name: TORCHRUN[name] for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")}
    assert find_place(given) == Place(
        rank=5, world_size=8, node=5, master=("node0", 29500), local_rank=0, local_world_size=1
    )


def test_a_task_of_slurm_meets_the_others_on_the_first_host() -> None:
    place = find_place(SLURM)
    assert (place.rank, place.world_size, place.local_rank) == (3, 5, 1)
    assert (place.node, place.local_world_size) == (1, 2)
    assert place.master is not None
    assert place.master[0] == "gpu07"
    assert find_place({**SLURM, "SLURM_JOB_ID": "4243"}).master != place.master
    given = find_place({**SLURM, "MASTER_ADDR": "login", "MASTER_PORT": "1234"})
    assert given.master == ("login", 1234)


def test_the_shell_of_a_batch_job_is_no_task() -> None:
    shell = {name: text for name, text in SLURM.items() if name != "SLURM_STEP_ID"}
    assert find_place(shell) == Place()


def test_torchrun_inside_slurm_decides() -> None:
    assert find_place({**SLURM, **TORCHRUN}).rank == 5


@pytest.mark.parametrize(
    ("nodes", "host"),
    [("n1", "n1"), ("n1,n2", "n1"), ("n[3-9]", "n3"), ("a-[008,010]b,c", "a-008b")],
)
def test_the_first_host_of_a_node_list(nodes: str, host: str) -> None:
    assert first_host(nodes) == host


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"RANK": "8"}, "ranks go from 0 to 7"),
        ({"RANK": "first"}, "RANK is 'first'"),
        ({"MASTER_ADDR": None}, "not MASTER_ADDR and MASTER_PORT"),
    ],
)
def test_variables_that_make_no_sense_are_told(
    changes: dict[str, str | None], message: str
) -> None:
    given = {name: text for name, text in {**TORCHRUN, **changes}.items() if text is not None}
    with pytest.raises(UsageError, match=message):
        find_place(given)


def test_a_process_that_is_alone_imports_no_torch_for_it() -> None:
    code = (
        "import sys; from llmforge.distributed import find_place, join;"
        "team = join(find_place({}));"
        "assert team.broadcast(3) == 3 and team.gather(4) == [4] and team.vote().ask(15) == 15;"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_what_torch_reads_is_set_and_nothing_is_replaced() -> None:
    environ = {"MASTER_PORT": "1"}
    find_place(SLURM).export(environ)
    assert environ["RANK"] == "3"
    assert (environ["WORLD_SIZE"], environ["LOCAL_RANK"]) == ("5", "1")
    assert (environ["MASTER_ADDR"], environ["MASTER_PORT"]) == ("gpu07", "1")

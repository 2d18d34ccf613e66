"""How long the commands that only look take, against starting a bare interpreter.

    python benchmarks/startup.py [--rounds 15] [--runs 10000] [--check]

Every command is a process of its own, its output piped; the commands take turns, so that a busy
moment of the machine hits all of them. Times are medians in milliseconds: ``wall`` as a person
waits, ``cpu`` as the processor works (hardly touched by other load). A bar on a multiple of the
bare interpreter is on both. ``--check`` exits with 1 when a bar is missed. Bytecode is written
before, as an installation does; the completed run is skipped before, too, so that there is a note
of it ("from a note"), and once more with notes out of reach ("resolved").
"""

from __future__ import annotations

import argparse
import compileall
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

RECIPE = "wikitext_tiny"


@dataclass
class Contender:
    """A command, the most it may take and its times.

    ``bar`` is on milliseconds of waiting, ``times_bare`` on how often as long as a bare
    interpreter's start it takes; ``says`` is what its output must hold, so that a broken command is
    never called fast; ``variables`` are set for it.
    """

    name: str
    command: Sequence[str]
    bar: float | None = None
    times_bare: float | None = None
    says: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def run(self) -> None:
        """Run the command once and note its times."""
        begin = time.perf_counter()
        process = subprocess.Popen(
            self.command,
            env=os.environ | self.variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        self.wall.append((time.perf_counter() - begin) * 1e3)
        self.cpu.append((used.ru_utime + used.ru_stime) * 1e3)
        if process.returncode != 0 or self.says not in output:
            raise SystemExit(f"{self.name} failed ({process.returncode}):\n{output[-2000:]}")

    def verdict(self, bare: Contender) -> tuple[str, bool]:
        """Return what the table says of its bar, and whether it was met."""
        if self.times_bare is not None:
            used = [
                statistics.median(mine) / statistics.median(its)
                for mine, its in ((self.wall, bare.wall), (self.cpu, bare.cpu))
            ]
            ok = max(used) <= self.times_bare
            return f"{self.times_bare:.0f} x bare: {'met' if ok else 'MISSED'}", ok
        if self.bar is not None:
            ok = statistics.median(self.wall) <= self.bar
            return f"{self.bar:.0f} wall: {'met' if ok else 'MISSED'}", ok
        return "", True


def make_runs(root: Path, count: int) -> None:
    """Write ``count`` finished runs as a run writes its record."""
    from llmforge.rundir import RunDirectory, RunRecord, write_record

    packages = {f"package-{index}": "1.2.3" for index in range(12)}
    keys = {"train.batch_size": 16, "train.max_steps": 600, "optimizer.adamw.lr": 1e-3}
    for index in range(count):
        directory = RunDirectory(root / f"single_bs16_cw128_lr1e-03-{index:06x}")
        directory.path.mkdir(parents=True)
        record = RunRecord(
            directory.id,
            state="completed",
            exit_reason="all 600 steps taken",
            created=1.7e9 + index,
            started=1.7e9 + index,
            ended=1.7e9 + index + 240,
            step=600,
            total_steps=600,
            identity={"hash": f"{index:064x}", "keys": keys},
            metrics={"val/loss": 3.5, "best": {"metric": "val/loss", "value": 3.4, "step": 500}},
            provenance={"command": ["forge", "train", RECIPE], "packages": packages},
        )
        write_record(directory, record, durable=False)


def complete_recipe() -> None:
    """Record that the recipe's run is done, as the end of a training does."""
    from llmforge.recipe import load_recipe
    from llmforge.run.plan import make_plan
    from llmforge.rundir import Completion, write_completion

    plan = make_plan(load_recipe(RECIPE))
    completion = Completion(
        run_id=plan.run_id,
        attempt=1,
        identity=plan.identity.hash,
        state="completed",
        reason="all 600 steps taken",
        steps=600,
        final_loss=3.5,
        best_loss=3.4,
        best_step=500,
        started=time.time() - 240,
        ended=time.time(),
        directory=str(plan.directory.path),
        next_command=f"forge generate {plan.run_id}",
    )
    write_completion(plan.root, completion)


def contenders(runs: int) -> list[Contender]:
    """Return the commands, the bare interpreter first."""
    script = shutil.which("forge", path=str(Path(sys.executable).parent))
    forge = [script] if script else [sys.executable, "-m", "llmforge"]
    last = f"single_bs16_cw128_lr1e-03-{runs - 1:06x}"
    return [
        Contender("bare interpreter", [sys.executable, "-c", "pass"]),
        Contender("forge --help", [*forge, "--help"], times_bare=6, says="prove-resume"),
        Contender("forge --version", [*forge, "--version"], times_bare=6, says="llmforge"),
        *(
            Contender(
                f"completion of '{line}'",
                [*_named_forge()],
                times_bare=6,
                says=says,
                variables={
                    "_FORGE_COMPLETE": "complete_bash",
                    "COMP_WORDS": line,
                    "COMP_CWORD": str(line.count(" ")),
                },
            )
            for line, says in (("forge tr", "train"), ("forge train --max", "--max-steps"))
        ),
        Contender(f"forge runs list, {runs:,} runs", [*forge, "runs", "list"], bar=2000, says=last),
        Contender(
            f"forge runs status RUN, {runs:,} runs",
            [*forge, "runs", "status", last],
            says="completed",
        ),
        Contender(
            f"forge train {RECIPE}, from a note",
            [*forge, "train", RECIPE],
            times_bare=6,
            says="already completed",
        ),
        Contender(
            f"forge train {RECIPE}, resolved",
            [*forge, "train", RECIPE],
            bar=1000,
            says="already completed",
            variables={"FORGE_CACHE": os.devnull},
        ),
    ]


def _named_forge() -> list[str]:
    """Return the command as a completion script starts it, by the name it completes."""
    run = "import sys; sys.argv[0] = 'forge'; from llmforge.__main__ import main; main()"
    return [sys.executable, "-c", run]


def compile_all() -> None:
    """Write the bytecode of llmforge and its plugins."""
    for name in ("llmforge", "llmforge_plugins"):
        for folder in __import__(name).__path__:
            compileall.compile_dir(folder, quiet=1)


def print_table(measured: Sequence[Contender]) -> bool:
    """Print the results; return whether every bar was met."""
    bare = measured[0]
    waiting = statistics.median(bare.wall)
    print(f"{'command':<40}{'wall':>8}{'cpu':>8}{'x bare':>9}   bar")
    met = True
    for item in measured:
        wall, cpu = statistics.median(item.wall), statistics.median(item.cpu)
        verdict, ok = item.verdict(bare)
        met &= ok
        print(f"{item.name:<40}{wall:>8.0f}{cpu:>8.0f}{wall / waiting:>9.1f}   {verdict}".rstrip())
    return met


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--check", action="store_true", help="exit with 1 when a bar is missed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"FORGE_RUN_ROOT": f"{folder}/runs", "FORGE_CACHE": f"{folder}/cache"}
        compile_all()
        make_runs(Path(folder) / "runs", options.runs)
        complete_recipe()
        time.sleep(2.5)  # a note is not of files that changed just now
        measured = contenders(options.runs)
        for item in measured:
            item.run()
            item.wall.clear()
            item.cpu.clear()
        for _ in range(options.rounds):
            for item in measured:
                item.run()
    met = print_table(measured)
    return 1 if options.check and not met else 0


if __name__ == "__main__":
    sys.exit(main())

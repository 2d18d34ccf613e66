"""Stand-ins for Slurm's programs.

Fakes for what test machines lack. ``srun`` starts the command once for each of ``STAND_IN_TASKS``
with the variables that Slurm gives the tasks of one machine, hands SIGTERM on to them, and ends
with the highest of their exit codes; ``scontrol`` writes down what it was asked. Both write into
the working directory.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

_PROGRAMS = {
    "srun": """\
while [ "${1#--}" != "$1" ]; do echo "$1" >> srun.txt; shift; done
count=${STAND_IN_TASKS:-1}
tasks=()
for rank in $(seq 0 $((count - 1))); do
  SLURM_PROCID=$rank SLURM_LOCALID=$rank SLURM_NTASKS=$count SLURM_STEP_NUM_TASKS=$count \\
    SLURM_STEP_ID=0 SLURM_NODEID=0 SLURM_STEP_TASKS_PER_NODE=$count \\
    SLURM_STEP_NODELIST=localhost "$@" &
  tasks+=($!)
done
trap 'told=yes; kill -TERM "${tasks[@]}"' TERM
highest=0
for task in "${tasks[@]}"; do
  told=yes
  while [ -n "$told" ]; do told=; wait "$task"; code=$?; done
  [ "$code" -gt "$highest" ] && highest=$code
done
exit "$highest"
""",
    "scontrol": 'echo "$@" >> scontrol.txt\n',
}


def slurm_environment(folder: Path, programs: Mapping[str, str]) -> dict[str, str]:
    """Put the stand-ins and further ``programs`` (bash, by name) into ``folder``.

    Returns:
        the environment of a batch job that finds them.
    """
    folder.mkdir()
    for name, body in {**_PROGRAMS, **programs}.items():
        path = folder / name
        path.write_text(f"#!/bin/bash\n{body}", encoding="utf-8")
        path.chmod(0o755)
    own = {name: text for name, text in os.environ.items() if not name.startswith("FORGE_")}
    return {**own, "PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "4711"}

"""The batch script for Slurm.

One task for each GPU: ``forge train`` reads its rank from Slurm's variables. The batch shell gets
SIGTERM some minutes before its time is over, or when the job is preempted, and hands it to
``srun``, which hands it to every task; they save, and exit code 75 puts the job back into the
queue.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping

from llmforge.clusters.job import Job
from llmforge.errors import EXIT_INTERRUPTED

_BODY = """\
set -u
{setup}
# One process for each GPU. None is killed because another has ended: all stop at the same step, and
# the first of them may still be saving when the others are done.
srun --kill-on-bad-exit=0 --wait=0 {command} &
training=$!

# The signal of --signal, of a preemption or of scancel --batch: srun hands it to every process.
trap 'told=yes; kill -TERM "$training" 2>/dev/null' TERM INT

# A trapped signal ends the wait; the training continues until it has saved.
told=yes
while [ -n "$told" ]; do
  told=
  wait "$training"
  code=$?
done

if [ "$code" -eq {requeue} ]; then
  echo "interrupted with the checkpoint saved: back into the queue"
  scontrol requeue "$SLURM_JOB_ID" || exit "$code"
fi
exit "$code"
"""


def batch_script(job: Job, *, directives: Mapping[str, str | None]) -> str:
    """Return the script for ``sbatch``.

    Args:
        job: what to train on how many machines.
        directives: further options of ``sbatch``; those that are None are left out.
    """
    command = shlex.join(["forge", "train", job.source, *job.arguments])
    setup = "".join(f"{line}\n" for line in job.setup)
    head = "".join(f"#SBATCH {line}\n" for line in _directives(job, directives))
    body = _BODY.format(setup=setup, command=command, requeue=EXIT_INTERRUPTED)
    return f"#!/bin/bash\n{head}\n{body}"


def _directives(job: Job, more: Mapping[str, str | None]) -> Iterator[str]:
    yield f"--job-name={job.name}"
    yield f"--nodes={job.nodes}"
    yield f"--ntasks-per-node={job.processes_per_node}"
    if job.gpus_per_node:
        yield f"--gpus-per-node={job.gpus_per_node}"
    for name, value in more.items():
        if value is not None:
            yield f"--{name}={value}"
    yield f"--output={job.name}-%j.log"
    yield "--open-mode=append"
    yield "--requeue"
    yield f"--signal=B:TERM@{job.grace}"

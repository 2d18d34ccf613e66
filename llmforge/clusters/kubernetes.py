"""The manifest for Kubernetes: an Indexed Job, a name for its pods, and the recipe.

Each pod is one machine and starts its processes itself; pod 0 is where they meet. A pod that ends
with exit code 75 has saved and is replaced without counting as a failure; a bad recipe ends the job
at once. ``podFailurePolicy`` is stable since Kubernetes 1.31.
"""

from __future__ import annotations

import json
import shlex
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from llmforge.clusters.job import Job
from llmforge.errors import EXIT_INTERRUPTED, EXIT_LOCKED, EXIT_USAGE

_PORT = 29500
_RECIPE = "/etc/forge/recipe.toml"
_HOME = "/forge"

_MANIFEST = """\
# {name}: kubectl apply -f FILE; kubectl logs -f job/{name}; kubectl delete -f FILE
apiVersion: v1
kind: Service # names for the pods, so that they find pod 0
metadata:
  name: {name}
spec:
  clusterIP: None
  publishNotReadyAddresses: true
  selector:
    batch.kubernetes.io/job-name: {name}
  ports:
    - name: rendezvous
      port: {port}
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: {name}
data:
  recipe.toml: |
{recipe}
---
apiVersion: batch/v1
kind: Job
metadata:
  name: {name}
spec:
  completionMode: Indexed
  completions: {nodes}
  parallelism: {nodes}
  backoffLimit: {retries}
  podFailurePolicy:
    rules:
      - action: Ignore # saved and asks to be started again
        onExitCodes:
          containerName: train
          operator: In
          values: [{requeue}]
      - action: Ignore # the machine was drained or taken away
        onPodConditions:
          - type: DisruptionTarget
      - action: FailJob # a bad recipe, or a run that somebody else trains: no retry helps
        onExitCodes:
          containerName: train
          operator: In
          values: [{usage}, {locked}]
  template:
    spec:
      restartPolicy: Never
      subdomain: {name}
      terminationGracePeriodSeconds: {grace}
      containers:
        - name: train
          image: {image}
          command: ["/bin/sh", "-c"]
          args:
            - |
{script}
          env:
            - name: FORGE_RUN_ROOT
              value: {home}/runs
            - name: FORGE_CACHE
              value: {home}/cache
{secrets}{resources}          volumeMounts:
            - name: recipe
              mountPath: /etc/forge
            - name: home
              mountPath: {home}
            - name: shared-memory
              mountPath: /dev/shm
      volumes:
        - name: recipe
          configMap:
            name: {name}
        - name: home
{volume}
        - name: shared-memory # NCCL and data workers share more than the usual 64 MB
          emptyDir:
            medium: Memory
"""


@dataclass(frozen=True, kw_only=True)
class Pods:
    """What a cluster of containers needs beside the job.

    Attributes:
        image: with llmforge in it.
        claim: a volume that all pods share and that outlives them; None keeps runs in the pod.
        secrets: names of secrets whose entries become environment variables.
        retries: failures that are tried again, exit code 75 not counted.
    """

    image: str
    claim: str | None = None
    secrets: Sequence[str] = ()
    retries: int = 3


def manifest(job: Job, pods: Pods, *, recipe: str) -> str:
    """Return the YAML of service, recipe and job; ``recipe`` is the resolved recipe's text."""
    return _MANIFEST.format(
        name=job.name,
        nodes=job.nodes,
        port=_PORT,
        home=_HOME,
        requeue=EXIT_INTERRUPTED,
        usage=EXIT_USAGE,
        locked=EXIT_LOCKED,
        grace=job.grace,
        retries=pods.retries,
        image=json.dumps(pods.image),
        recipe=textwrap.indent(recipe.rstrip("\n"), " " * 4),
        script=textwrap.indent(_script(job), " " * 14),
        secrets=_secrets(pods.secrets),
        resources=_resources(job.gpus_per_node),
        volume=_volume(pods.claim),
    )


def _script(job: Job) -> str:
    """Return what a pod runs; ``exec`` so that signals reach forge itself."""
    command = ["forge", "train", _RECIPE]
    launched = shlex.join(command)
    if job.world_size > 1:
        launched += f" --nproc-per-node {job.processes_per_node}"
    if job.nodes > 1:
        launched += (
            f' --nnodes {job.nodes} --node-rank "$JOB_COMPLETION_INDEX"'
            f" --rdzv-endpoint {job.name}-0.{job.name}:{_PORT}"
        )
    return "\n".join([*job.setup, f"exec {launched}"])


def _secrets(names: Sequence[str]) -> str:
    if not names:
        return ""
    rows = "".join(
        f"            - secretRef:\n                name: {json.dumps(name)}\n" for name in names
    )
    return f"          envFrom:\n{rows}"


def _resources(gpus: int) -> str:
    if not gpus:
        return ""
    return f"          resources:\n            limits:\n              nvidia.com/gpu: {gpus}\n"


def _volume(claim: str | None) -> str:
    if claim is None:
        return "          emptyDir: {}"
    return f"          persistentVolumeClaim:\n            claimName: {json.dumps(claim)}"

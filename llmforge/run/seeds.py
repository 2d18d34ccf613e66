"""Independent random streams derived from the run's seed and a place in the run.

Nothing depends on how often a generator was called before, so a resume, another world size or a
replay after running out of memory draws the same numbers.
"""

from __future__ import annotations

import hashlib

MODEL = "model"
ADAPTER = "adapter"
TRAINING = "training"


def derive(seed: int, stream: str, *place: int) -> int:
    """Return a 63-bit seed for ``stream`` at ``place`` (step, micro-batch index …)."""
    text = ":".join([str(seed), stream, *map(str, place)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1

"""Two processes on one run: one trains, the other leaves at once and says who is training."""

from __future__ import annotations

import os
import signal
import socket
import time

from conftest import Reference
from forge_process import Workplace, stepping


def test_a_second_process_leaves_and_names_the_first(
    tmp_path: object, reference: Reference, workplace: Workplace
) -> None:
    first = workplace.start()
    assert first.wait_for(stepping)
    os.kill(first.process.pid, signal.SIGSTOP)
    began = time.monotonic()
    second = Workplace(workplace.path, workplace.settings).start().finish(expect=3)
    took = time.monotonic() - began
    said = second.output
    os.kill(first.process.pid, signal.SIGCONT)
    first.finish(expect=0)

    assert f"process {first.process.pid} on {socket.gethostname()}" in said
    assert "Traceback" not in said
    assert took < 5  # before torch is imported
    assert workplace.result() == reference("fp32").result()
    assert workplace.record["restarts"] == 1

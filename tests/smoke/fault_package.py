"""Plugins that misbehave on purpose, installed as a distribution of their own."""

from __future__ import annotations

import os
from pathlib import Path

SOURCES = Path(__file__).parent / "faulty_plugins"

ENTRY_POINTS = """\
[llmforge.models]
faulty = forge_faults.model:Faulty

[llmforge.trackers]
notebook = forge_faults.trackers:Notebook
raiser = forge_faults.trackers:Raiser
sleeper = forge_faults.trackers:Sleeper
killer = forge_faults.trackers:Killer
never-ends = forge_faults.trackers:NeverEnds
switch = forge_faults.trackers:Switch
blabber = forge_faults.blabber:Blabber

[llmforge.callbacks]
counter = forge_faults.callback:Counter
blabbing = forge_faults.blabber:BlabbingCallback
"""


def install_faults(directory: Path) -> str:
    """Write the distribution's metadata to ``directory``; return the PYTHONPATH that has both."""
    metadata = directory / "forge_faults-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: forge-faults\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
    inherited = os.environ.get("PYTHONPATH", "")
    return os.pathsep.join([str(directory), str(SOURCES), *filter(None, [inherited])])

"""``python -m llmforge`` is ``forge``."""

from llmforge.cli.app import main

main()

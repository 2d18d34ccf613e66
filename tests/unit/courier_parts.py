"""A tracker for tests that drive a delivery themselves."""

from __future__ import annotations

from llmforge import Component


class Mine(Component, kind="tracker"):
    """Takes nothing by itself; the tests say what a call does."""

    name = "mine"

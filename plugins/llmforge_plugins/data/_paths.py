"""Types of the options that name files."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Paths = str | list[str]
Weight = Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]
WeightedPaths = Paths | Annotated[dict[str, Weight], Field(min_length=1)]
"""Paths, or with each how often an epoch has a row of it."""

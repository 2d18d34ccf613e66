"""``accuracy`` and ``f1``: how well predicted labels agree with the true ones, by scikit-learn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import llmforge
from llmforge import SAFE, Component, hookimpl

if TYPE_CHECKING:
    from llmforge.interfaces import Metric


class Accuracy(Component, kind="metric"):
    """The share of labels, from 0 to 1, that are predicted correctly."""

    requires = ("sklearn",)
    needs = "labels"

    class Options(llmforge.Options):
        """Options of ``[metric.accuracy]``."""

        balanced: Annotated[bool, SAFE] = False
        """Whether each true label counts the same, however frequent it is: the mean recall."""

    @hookimpl
    def forge_build_metric(self) -> Metric:
        """Build the metric."""
        from llmforge_plugins.metrics._labels import LabelAccuracy

        return LabelAccuracy(self.options)


class F1(Component, kind="metric"):
    """F1 of predicted labels, from 0 to 1: the harmonic mean of precision and recall."""

    requires = ("sklearn",)
    needs = "labels"

    class Options(llmforge.Options):
        """Options of ``[metric.f1]``."""

        average: Annotated[Literal["macro", "micro", "weighted", "binary"], SAFE] = "macro"
        """Over labels: ``macro`` (each counts the same), ``weighted`` (by how frequent it is),
        ``micro`` (over all predictions), or ``binary``: of ``positive`` alone."""
        positive: Annotated[int, SAFE] = 1
        """The label that ``binary`` is of."""

    @hookimpl
    def forge_build_metric(self) -> Metric:
        """Build the metric."""
        from llmforge_plugins.metrics._labels import LabelF1

        return LabelF1(self.options)

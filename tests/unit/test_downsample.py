"""Fewer points of a curve: what stands out stays, however few are kept."""

from __future__ import annotations

import numpy as np
import pytest

from llmforge.insight.downsample import keep_extremes


def test_a_short_curve_is_kept_whole() -> None:
    kept = keep_extremes([3.0, 1.0, 2.0, 5.0], most=4)
    assert kept.places.tolist() == [0, 1, 2, 3]
    assert kept.means.tolist() == [3.0, 1.0, 2.0, 5.0]


@pytest.mark.parametrize("count", [5, 99, 100, 101, 10_007])
@pytest.mark.parametrize("most", [4, 7, 100])
def test_peaks_first_and_last_survive_and_no_more_than_asked(count: int, most: int) -> None:
    curve = np.random.default_rng(count).normal(size=count)
    for place in (0, count // 2, count - 1):
        for peak in (50.0, -50.0):
            spiked = curve.copy()
            spiked[place] = peak
            kept = keep_extremes(spiked, most=most)
            assert peak in spiked[kept.places]
            assert len(kept.places) <= most
            assert kept.places[0] == 0 and kept.places[-1] == count - 1
            assert (np.diff(kept.places) > 0).all()


def test_means_are_those_of_the_whole_stretch_and_not_of_its_extremes() -> None:
    curve = np.zeros(1000)
    curve[::100] = 10.0  # rare peaks: the middle of the extremes would be 5
    kept = keep_extremes(curve, most=22)
    assert kept.means == pytest.approx(np.full(len(kept.places), 0.1))


def test_fewer_than_four_points_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 4"):
        keep_extremes([1.0], most=3)

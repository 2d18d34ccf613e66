"""Curves as text."""

from __future__ import annotations

import math

import pytest

from llmforge.insight.terminal_plot import Points, styled_plot, terminal_plot

FALLING: Points = ([1, 100, 200], [8.0, 4.0, 2.0])


def plot(
    *values: Points, width: int = 80, height: int = 20, logarithmic: bool = False
) -> list[str]:
    series = {f"series {number}": points for number, points in enumerate(values)}
    text = terminal_plot(
        series, width=width, height=height, title="Loss", x_label="step", logarithmic=logarithmic
    )
    return text.splitlines()


def label(line: str) -> str:
    return line.split("┤")[0].strip()


def labels(lines: list[str]) -> list[str]:
    return [label(line) for line in lines if "┤" in line]


@pytest.mark.parametrize("width", [40, 80, 100])
@pytest.mark.parametrize("height", [10, 20, 31])
def test_a_picture_fills_the_size_that_was_asked_for(width: int, height: int) -> None:
    lines = plot(FALLING, FALLING, width=width, height=height)
    assert len(lines) == height
    assert max(map(len, lines)) == width


def test_a_picture_that_would_be_too_small_is_drawn_at_the_smallest_size() -> None:
    assert len(plot(FALLING, width=3, height=1)) == 8


def test_a_falling_series_starts_at_the_top_left_and_ends_at_the_bottom_right() -> None:
    body = [line for line in plot(FALLING) if "┤" in line or "│" in line]
    assert body[0].rstrip()[-1] not in "┤│"
    assert len(body[0]) < len(body[-1]) == 80


def test_labels_are_round_and_enclose_the_values() -> None:
    assert labels(plot(([0, 600], [1.93, 7.71]))) == ["8", "6", "4", "2", "0"]
    assert labels(plot(([0, 600], [2.9961e-4, 0.0]))) == ["3e-04", "2e-04", "1e-04", "0"]
    assert labels(plot(([0, 600], [1_900_000.0, 4_100_000.0])))[0] == "4.5e+06"


def test_a_logarithmic_axis_has_powers_of_ten() -> None:
    found = labels(plot(([0, 600], [1.0, 1e4]), logarithmic=True))
    assert found == ["10,000", "1,000", "100", "10", "1"]


def test_steps_are_whole_numbers() -> None:
    assert "0" in plot(([1], [3.0]))[-2].split()
    assert not any("." in text for text in plot(([1, 2, 3], [3.0, 2.0, 1.0]))[-2].split())


def test_series_are_told_apart_without_colours() -> None:
    text = "\n".join(plot(FALLING, FALLING, FALLING))
    assert "×" in text
    assert "+" in text
    assert plot(FALLING, FALLING, FALLING)[-1].split() == [
        *("⠤⠤", "series", "0"),
        *("×", "series", "1"),
        *("+", "series", "2"),
    ]


def test_one_series_has_no_legend() -> None:
    assert plot(FALLING)[-1].strip() == "step"


def test_values_that_are_not_finite_are_left_out() -> None:
    broken: Points = ([1, 50, 100, 200], [8.0, math.nan, math.inf, 2.0])
    assert plot(broken) == plot(([1, 200], [8.0, 2.0]))
    assert plot(([1, 2, 3], [10.0, 0.0, 100.0]), logarithmic=True) == plot(
        ([1, 3], [10.0, 100.0]), logarithmic=True
    )


def test_without_any_value_it_says_so() -> None:
    assert plot(([], []), ([1], [math.nan])) == ["Loss", "no values to show"]


def test_many_points_are_drawn_as_their_means() -> None:
    steps = list(range(100_000))
    found = labels(plot((steps, [4.0 + (step % 2) for step in steps])))
    assert all(4.4 < float(text) < 4.6 for text in found)


def test_a_terminal_gets_colours_and_the_same_picture() -> None:
    text = styled_plot({"series 0": FALLING}, width=80, height=20, title="Loss", x_label="step")
    assert [line.rstrip() for line in text.plain.splitlines()] == plot(FALLING)
    assert {"bold", "dim", "cyan"} <= {str(span.style) for span in text.spans}

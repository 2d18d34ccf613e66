"""Events on their way through the journal."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from llmforge import events, hookspecs
from llmforge.testing import one_of_each_event

SAMPLES = {event.hook: event for event in one_of_each_event()}


def test_there_is_a_sample_of_every_event() -> None:
    assert set(SAMPLES) == set(events.EVENT_TYPES)


@pytest.mark.parametrize("hook", SAMPLES)
def test_an_event_comes_back_equal_from_its_line(hook: str) -> None:
    line = events.encode(SAMPLES[hook])
    assert "\n" not in line
    assert events.decode(line) == SAMPLES[hook]


@pytest.mark.parametrize("hook", SAMPLES)
def test_every_event_has_a_lifecycle_hook_that_takes_it(hook: str) -> None:
    annotations = getattr(hookspecs, hook).__annotations__
    assert annotations["event"] == f"events.{type(SAMPLES[hook]).__name__}"


@pytest.mark.parametrize("hook", SAMPLES)
def test_an_event_cannot_be_changed(hook: str) -> None:
    name = dataclasses.fields(SAMPLES[hook])[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(SAMPLES[hook], name, None)


def test_text_of_any_language_and_line_breaks_survive_on_one_line() -> None:
    text = "Zwölf\n\u2028Boxkämpfer \U0001f680 \x00"
    event = events.RunFailed(step=3, message=text)
    line = events.encode(event)
    assert len(line.splitlines()) == 1
    assert events.decode(line) == event


def test_values_that_are_not_numbers_are_not_hidden() -> None:
    values = {"a": math.nan, "b": math.inf}
    back = events.decode(events.encode(events.MetricsLogged(step=1, values=values, time=0.0)))
    assert isinstance(back, events.MetricsLogged)
    assert math.isnan(back.values["a"])
    assert back.values["b"] == math.inf


def test_an_event_of_a_later_version_is_left_out() -> None:
    assert events.decode('{"hook":"forge_of_the_future","x":1}') is None


def test_a_field_of_a_later_version_is_left_out() -> None:
    body = json.loads(events.encode(SAMPLES["forge_metrics"])) | {"colour": "red"}
    assert events.decode(json.dumps(body)) == SAMPLES["forge_metrics"]


@pytest.mark.parametrize(
    "line",
    ["", '{"hook":"forge_met', "5", "[]", "null", "{}", '{"hook":[]}', '{"hook":"forge_metrics"}'],
)
def test_a_torn_or_foreign_line_is_a_value_error(line: str) -> None:
    with pytest.raises(ValueError):
        events.decode(line)


def test_a_value_that_json_cannot_hold_is_refused_before_it_reaches_the_journal() -> None:
    with pytest.raises(TypeError, match="object cannot be written to the journal"):
        events.encode(events.MetricsLogged(step=1, values={"x": object()}, time=0.0))

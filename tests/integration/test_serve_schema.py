"""Schemathesis asks ``forge serve`` all that its OpenAPI document permits, and what it forbids."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis.checks import not_a_server_error
from serve_process import ServeProcess, make_chat_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeProcess]:
    base = tmp_path_factory.mktemp("runs")
    make_chat_run(base)
    with ServeProcess(base, "talk", "--max-tokens", "4") as process:
        yield process


@pytest.fixture(scope="module")
def document(server: ServeProcess) -> Any:
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json")


schema = schemathesis.pytest.from_fixture("document")


@schema.parametrize()
@hypothesis.settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(hypothesis.HealthCheck),
)
@pytest.mark.timeout(900)
def test_no_request_makes_the_server_fail(case: Any) -> None:
    case.call_and_validate(checks=[not_a_server_error])

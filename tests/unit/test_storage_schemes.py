"""The scheme of a URL picks the storage component."""

from __future__ import annotations

import pytest

from llmforge.plugins import storage_component

LISTED = ("local", "s3", "gcs", "memory", "fsspec", "mine")


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("file:///mnt/runs", "local"),
        ("s3://bucket/runs", "s3"),
        ("S3://bucket/runs", "s3"),
        ("gs://bucket/runs", "gcs"),
        ("memory://x", "memory"),
        ("mine://x", "mine"),
        ("sftp://host/runs", "fsspec"),
    ],
)
def test_a_scheme_has_its_component_or_the_one_for_all(url: str, name: str) -> None:
    assert storage_component(url, LISTED) == name

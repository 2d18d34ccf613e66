"""The data ``wikitext``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

import llmforge
from llmforge import MACHINE, Component, Problem, RunContext, hookimpl
from llmforge.errors import DataError
from llmforge.interfaces import Data


class WikiText(Component, kind="data"):
    """WikiText-2 or WikiText-103: articles of the English Wikipedia (Merity et al. 2016).

    From the Hugging Face hub, from a folder or URL, or, when the hub cannot be reached and
    ``offline_sample`` allows it, the articles that come with llmforge. A document is an article.
    """

    class Options(llmforge.Options):
        """Options of ``[data.wikitext]``."""

        subset: Literal[
            "wikitext-2-raw-v1", "wikitext-103-raw-v1", "wikitext-2-v1", "wikitext-103-v1"
        ] = "wikitext-2-raw-v1"
        """Which corpus; the ``raw`` ones keep rare words instead of ``<unk>``."""
        revision: Annotated[str, Field(min_length=1)] = "b08601e04326c79dfdd32d625aee71d232d685c3"
        """Commit of the data set on the hub."""
        path: str | None = None
        """A local folder or fsspec URL with train, validation and test files, instead of the hub:
        ``train.txt`` or ``wiki.train.raw`` or ``wiki.train.tokens``, the others alike."""
        offline_sample: bool = False
        """Without network and cache, train on the bundled sample and say so."""
        timeout: Annotated[float, MACHINE, Field(gt=0, le=60)] = 2.5
        """Seconds to wait for the hub before it counts as unreachable."""

    @hookimpl
    def forge_preflight(self, run: RunContext) -> list[Problem]:
        """Look for the files of a local ``path``."""
        del run
        if self.options.path is None:
            return []
        from llmforge_plugins.data._remote import is_url
        from llmforge_plugins.data._wikitext import local_files

        if is_url(self.options.path):
            return []
        try:
            local_files(self.options.path)
        except DataError as error:
            key = f"data.{self.name}.path"
            return [Problem(key=key, message=error.message, remedy=error.remedy)]
        return []

    @hookimpl
    def forge_build_data(self, run: RunContext) -> Data:
        """Open the corpus, downloading it into the cache when it is not there."""
        from llmforge_plugins.data._wikitext import build

        return build(self.options, run)

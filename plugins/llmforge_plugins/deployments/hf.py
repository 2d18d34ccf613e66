"""The deployment ``hf``: model repositories of the Hugging Face hub."""

from __future__ import annotations

from typing import Annotated, ClassVar

import llmforge
from llmforge import SAFE, Component, hookimpl
from llmforge.interfaces import Deployment


class HuggingFaceHub(Component, kind="deploy"):
    """A model repository of the Hugging Face hub: ``hf://OWNER/NAME``.

    The token comes from ``HF_TOKEN`` or from ``hf auth login``; it must be allowed to write.
    ``HF_ENDPOINT`` names another hub.
    """

    requires: ClassVar[tuple[str, ...]] = ("huggingface_hub",)
    credentials: ClassVar[tuple[str, ...]] = ("HF_TOKEN",)
    address_form: ClassVar[str] = "hf://OWNER/NAME"
    needs_network: ClassVar[bool] = True

    class Options(llmforge.Options):
        """Options of ``[deploy.hf]``."""

        message: Annotated[str, SAFE] = ""
        """Message of the commit; without it one that names the run and the step."""

    @hookimpl
    def forge_open_deployment(self, address: str) -> Deployment:
        """Open the repository; the first call asks the hub."""
        from llmforge_plugins.deployments._hf import HubRepository

        return HubRepository(address, message=self.options.message)

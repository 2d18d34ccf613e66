"""A model behind HTTP, in the form of OpenAI's API.

Requests come in on the event loop (``app``), become continuations (``jobs``) and are written by one
thread that owns the model (``engine``), between whose tokens they join and leave. FastAPI, uvicorn
and prometheus-client are imported by ``app``, ``process`` and ``measurements`` only, when a server
starts.
"""

from __future__ import annotations

from llmforge.serve.limits import Limits

__all__ = ["Limits"]

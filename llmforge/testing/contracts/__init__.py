"""One contract suite per kind; :mod:`llmforge.testing` exports them."""

"""Options that choose how text is drawn from a model, each in place of the recipe's own."""

from __future__ import annotations

from typing import Annotated

from llmforge.cli.options import option

_PANEL = "Sampling (each replaces the recipe's option)"

MaxNewTokens = Annotated[
    int | None, option("--max-new-tokens", help="Longest continuation, in tokens.", panel=_PANEL)
]
Temperature = Annotated[
    float | None,
    option("--temperature", help="Below 1 more predictable, above 1 more varied.", panel=_PANEL),
]
TopK = Annotated[
    int | None,
    option("--top-k", help="Draw from this many likeliest tokens only.", panel=_PANEL),
]
TopP = Annotated[
    float | None,
    option("--top-p", help="Draw from the fewest tokens holding this probability.", panel=_PANEL),
]
MinP = Annotated[
    float | None,
    option("--min-p", help="Draw from tokens this likely relative to the likeliest.", panel=_PANEL),
]
RepetitionPenalty = Annotated[
    float | None,
    option(
        "--repetition-penalty",
        help="Above 1 avoids tokens that were there already.",
        panel=_PANEL,
    ),
]
Stop = Annotated[
    list[str] | None,
    option("--stop", help="End before this text. Repeatable.", panel=_PANEL),
]
Greedy = Annotated[
    bool | None,
    option("--greedy/--no-greedy", help="Always take the likeliest token.", panel=_PANEL),
]
Lookup = Annotated[
    int | None,
    option(
        "--lookup",
        help="Propose up to this many tokens from earlier text: faster where it repeats itself.",
        panel=_PANEL,
    ),
]
Seed = Annotated[int | None, option("--seed", help="Equal seeds give equal texts.", panel=_PANEL)]

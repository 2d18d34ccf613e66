"""Prompt lookup: tokens are proposed by repeating what followed the same words before.

Saxena, "Prompt Lookup Decoding" (2023): text repeats itself, so the continuation of the longest
earlier occurrence of the newest tokens is a guess that costs no draft model. A model checks several
guessed tokens in one pass, as in speculative decoding (Leviathan et al. 2023, arXiv:2211.17192).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

_GRAMS = (4, 3, 2)
"""Newest tokens that must have occurred before: as many as there are, of these."""

_PASS = 0.3
_TOKEN = 0.15
"""What a pass that checks proposals costs more than a plain one, and each of them, in plain passes.

Mostly too high rather than too low. Measured on two AMD Zen 5 cores, for 4, 6 and 12 layers of 256,
384 and 768: 2 positions cost 1.0 to 1.3 times as much as 1, 5 cost 1.1 to 1.5 and 8 cost 1.2 to 1.8
in fp32 and bf16; in int8 they cost 1.0 to 1.3, 1.5 to 2.0 and 1.7 to 2.2.
"""

_AT_FIRST = (0.0, 0.0, 0.3, 0.5, 0.7, 0.8)
"""How often the next token is taken to be the right one at first, by the bits of the length."""
_RECENT = 1 / 8
"""How much the newest guess counts for how often guesses are right."""

_LOAN = 0.5
_ALLOWED = 0.015
"""Plain passes that proposals may have cost in vain: at first, and for each token since."""


class Lookup:
    """What earlier text says about the next tokens of a growing one, and how reliable that is.

    It guesses at every token, whether the guess is used or not, and so learns at no cost whether
    it would have been right, by how long the match is. Guesses are proposed while they save more
    passes than they cost. Nothing depends on a clock: equal texts get equal proposals.

    Args:
        ids: the text so far.
    """

    def __init__(self, ids: Sequence[int]) -> None:
        self._ids: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}  # where the text continued after these tokens
        self._at: int | None = None  # where the earlier text continues
        self._matched = 0  # tokens before that place which equal the newest
        self._right = list(_AT_FIRST)
        self._saved = _LOAN
        for token in ids:
            self.took(token)

    def took(self, token: int) -> None:
        """Add the next token of the text."""
        ids = self._ids
        if self._at is not None:
            hit = ids[self._at] == token
            kind = _kind(self._matched)
            self._right[kind] += (hit - self._right[kind]) * _RECENT
            self._at = self._at + 1 if hit else None
            self._matched += 1
        ids.append(token)
        for length in _GRAMS:
            if len(ids) < length:
                continue
            gram = tuple(ids[-length:])
            if self._at is None:
                self._at, self._matched = self._after.get(gram), length
            self._after[gram] = len(ids)

    def proposal(self, most: int, *, ends: Collection[int | None]) -> list[int]:
        """Return the tokens to check in the next pass, at most ``most``; none where none pay.

        None of ``ends`` is among them: nothing follows it.
        """
        if self._at is None or self._saved < 0:
            return []
        found: list[int] = []
        best, count, expected, chance = 0.0, 0, -_PASS, 1.0
        while len(found) < most:
            place = self._at + len(found) - len(self._ids)
            token = self._ids[place] if place < 0 else found[place]  # a text that goes in circles
            chance *= self._right[_kind(self._matched + len(found))]
            if chance < _TOKEN or token in ends:
                break
            found.append(token)
            expected += chance - _TOKEN
            if expected > best:
                best, count = expected, len(found)
        return found[:count]

    def passed(self, *, proposed: int, right: int) -> None:
        """Take into account what a pass cost and brought; before its tokens are added."""
        self._saved += _ALLOWED * (right + 1)
        if proposed:
            self._saved += right - _PASS - _TOKEN * proposed


def _kind(matched: int) -> int:
    return min(matched.bit_length(), len(_AT_FIRST) - 1)

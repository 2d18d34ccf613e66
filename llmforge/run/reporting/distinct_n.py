"""How varied a generated text is."""

from __future__ import annotations


def distinct_n(text: str, n: int) -> float:
    """Return the number of different n-grams of words divided by the number of words.

    The measure distinct-n of Li et al., "A Diversity-Promoting Objective Function for Neural
    Conversation Models" (2016), for one text; near 0 for a text that repeats itself, 0 for one
    without words. Words are what white space separates, so that tokenizers compare.
    """
    words = text.split()
    if not words:
        return 0.0
    found = {tuple(words[start : start + n]) for start in range(len(words) - n + 1)}
    return len(found) / len(words)

"""Text that a terminal can show, whatever is in it."""

from __future__ import annotations

import re

_UNREADABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_UNDECODED = re.compile("[\udc80-\udcff]")
_BREAKS = str.maketrans({"\n": "\\n", "\t": "\\t"})


def printable(text: str) -> str:
    """Return ``text`` with control characters escaped, all but line breaks and tabs.

    An escape sequence in the name of a file must not reach the terminal, nor may a character that
    turns the direction of what follows, nor a byte that is no text.
    """
    return _UNREADABLE.sub(_escaped, text)


def printable_line(text: str) -> str:
    """Return ``text`` as :func:`printable` does, and on one line."""
    return printable(text).translate(_BREAKS)


def decoded(text: str) -> str:
    """Return ``text`` with bytes that the locale could not decode taken as UTF-8.

    Under ``LC_ALL=C`` an argument such as ``naïve`` may arrive as lone surrogates (PEP 383). Bytes
    that are no UTF-8 either become U+FFFD.
    """
    if _UNDECODED.search(text) is None:
        return text
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"

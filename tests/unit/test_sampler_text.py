"""Text while it streams: characters split over tokens, and stop texts."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from llmforge_plugins.generation._text import TextStream


def decode_bytes(ids: Sequence[int]) -> str:
    return bytes(ids).decode(errors="replace")


def streamed(
    data: bytes, *, stop: Sequence[str] = (), size: int = 1, prompt: bytes = b""
) -> tuple[TextStream, list[str]]:
    pieces: list[str] = []
    stream = TextStream(decode_bytes, prompt=prompt, stop=stop, on_text=pieces.append)
    for begin in range(0, len(data), size):
        stream.push(data[begin : begin + size])
        if stream.stopped:
            return stream, pieces
    stream.finish()
    return stream, pieces


def test_characters_of_several_tokens_come_out_whole() -> None:
    text = "naïve 漢字 🙂 é" * 9
    stream, pieces = streamed(text.encode())
    assert stream.text == text
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_bytes_that_are_no_text_become_what_one_decoding_gives(size: int) -> None:
    data = (b"ok \xff\xfe \xe4\xb8 no \xf0\x9f\x99\x82 \xc3") * 6
    stream, pieces = streamed(data, size=size)
    assert stream.text == decode_bytes(data)
    assert "".join(pieces) == stream.text


def test_an_incomplete_last_character_is_shown_at_the_end() -> None:
    stream, pieces = streamed("é".encode() + b"\xc3")
    assert pieces == ["é", "\ufffd"]
    assert stream.text == "é\ufffd"


def test_a_stop_text_over_several_tokens_is_cut_and_never_shown() -> None:
    stream, pieces = streamed(b"one END two", stop=["END"])
    assert stream.stopped
    assert stream.text == "one "
    assert "".join(pieces) == "one "


def test_the_earliest_of_several_stop_texts_wins() -> None:
    stream, _ = streamed(b"abcdef", stop=["ef", "bcd"], size=6)
    assert stream.text == "a"


def test_text_held_back_as_a_possible_stop_is_released_when_it_is_none() -> None:
    stream, pieces = streamed(b"one EN two EN", stop=["END"])
    assert not stream.stopped
    assert "".join(pieces) == stream.text == "one EN two EN"
    assert "one " in "".join(pieces[:4])


def test_a_stop_text_in_the_prompt_does_not_count() -> None:
    stream, _ = streamed(b"D and on", stop=["END"], prompt=b"EN")
    assert not stream.stopped


def test_a_decoder_that_strips_the_first_space_keeps_the_space_after_the_prompt() -> None:
    words = ["Hello", " world", " again"]

    def decode(ids: Sequence[int]) -> str:
        return "".join(words[index] for index in ids).removeprefix(" ")

    stream = TextStream(decode, prompt=[0])
    stream.push([1])
    stream.push([2])
    stream.finish()
    assert stream.text == " world again"

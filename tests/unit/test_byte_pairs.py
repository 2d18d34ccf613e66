"""Byte-level BPE through tiktoken: the ids of ``tokenizers``, or not used at all."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from pathlib import Path

import pytest
import tokenizers
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers, trainers

from llmforge_plugins.tokenizers import _fast
from llmforge_plugins.tokenizers._byte_pairs import byte_pair_encoder
from llmforge_plugins.tokenizers._fast import FastTokenizer

SAMPLE = Path(_fast.__file__).parents[1] / "data" / "sample" / "train.txt"
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
NASTY = [
    "",
    " ",
    "\n",
    " " * 5000,
    "\n" * 5000,
    " \n\t " * 3000,
    "a" * 16_384,
    "ab" * 8000 + " ",
    "1" * 5000,
    "." * 5000,
    "'" * 3000,
    "don't DON'T we'LL it\u2019s 'S 'ſ x'ſ 'l",
    "<|endoftext|> a<|endoftext|>b <unk> [UNK]",
    "日本語のテキスト。中文文本，没有空格" * 200,
    "한국어 عربى \u200f עברית हिन्दी ไทย",
    "😀👩‍👩‍👧‍👦🏳️‍🌈 \U0001f680\ufe0f" * 50,
    "caf\u00e9 cafe\u0301 \u1e9b\u0323 \uac00 \u1100\u1161 \u2126",
    "\x00\x01\x7f\x80\x9f\xa0\xad\ufeff\ufffd\uffff\U0010ffff",
    "\u00a0\u2003\u3000\u2028\u2029\x85\x1c\x1f \u180e\u200b end",
    "x\r\ny\r\n\r\n  z \r w",
    b"\xff\xfe broken \xc3( utf-8 \xe2\x82".decode("utf-8", errors="replace"),
]


def trained(*, vocab_size: int = 3000, pre_tokenizer=None, normalizer=None) -> tokenizers.Tokenizer:
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizer or pre_tokenizers.ByteLevel(add_prefix_space=False)
    if normalizer is not None:
        inner.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    text = SAMPLE.read_text(encoding="utf-8")
    inner.train_from_iterator([text, "aaaa aaa aa " * 50, *NASTY], trainer)
    inner.encode_special_tokens = True
    return inner


def qwen2() -> tokenizers.Tokenizer:
    split = pre_tokenizers.Split(Regex(QWEN2), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return trained(
        pre_tokenizer=pre_tokenizers.Sequence([split, byte_level]), normalizer=normalizers.NFC()
    )


def with_added_token() -> tokenizers.Tokenizer:
    inner = trained()
    inner.add_tokens([AddedToken("  ", normalized=False), AddedToken("<tool>", normalized=True)])
    inner.encode_special_tokens = True
    return inner


TOKENIZERS = {
    "gpt2": trained,
    "all bytes": lambda: trained(vocab_size=257),
    "qwen2": qwen2,
    "added": with_added_token,
}


def assert_same(inner: tokenizers.Tokenizer, texts: list[str]) -> int:
    """Compare both ways; return how many texts the fast one took."""
    encoder = byte_pair_encoder(inner)
    assert encoder is not None
    found = [encoder.encode(text) for text in texts]
    expected = inner.encode_batch_fast(texts, add_special_tokens=False)
    for text, ids, encoding in zip(texts, found, expected, strict=True):
        assert ids is None or ids.tolist() == encoding.ids, repr(text[:80])
    return sum(ids is not None for ids in found)


@pytest.fixture(params=TOKENIZERS, scope="module")
def inner(request: pytest.FixtureRequest) -> tokenizers.Tokenizer:
    return TOKENIZERS[request.param]()


def test_real_and_nasty_text_has_the_ids_of_the_library(inner):
    text = SAMPLE.read_text(encoding="utf-8")
    pieces = [text[start : start + 5000] for start in range(0, len(text), 5000)]
    assert assert_same(inner, pieces + NASTY) > 30


def test_every_character_between_others_has_the_ids_of_the_library(inner):
    codes = [*range(0xD800), *range(0xE000, 0x20000), *range(0xE0000, 0xE0200)]
    codes += range(0x20000, 0x110000, 61)  # whole planes of a kind: ideographs, or nothing at all
    texts = []
    for start in range(0, len(codes), 4096):
        characters = map(chr, codes[start : start + 4096])
        texts.append("".join(f"a{each}1 {each}' {each}{each}\n" for each in characters))
    taken = assert_same(inner, texts)
    assert taken > 0.7 * len(texts)


def test_random_text_has_the_ids_of_the_library(inner):
    chance = random.Random(1)
    alphabet = "aaaabcdehilnorstAZ019 .,'’\n\r\t\u00a0\u0301éſ日😀-<|>"
    texts = ["".join(chance.choices(alphabet, k=chance.randrange(400))) for _ in range(3000)]
    assert assert_same(inner, texts) > 100


def changed(inner: tokenizers.Tokenizer, change) -> tokenizers.Tokenizer:
    body = json.loads(inner.to_str())
    change(body)
    return tokenizers.Tokenizer.from_str(json.dumps(body))


def swap_merges(body) -> None:
    """Let the two letters of a token be merged after a merge that takes one of them away."""
    vocabulary = body["model"]["vocab"]
    last = max(vocabulary.values())
    vocabulary |= {"xq": last + 1, "qz": last + 2, "xqz": last + 3}
    body["model"]["merges"] += [["q", "z"], ["x", "q"], ["xq", "z"]]


def make_a_token_twice(body) -> None:
    vocabulary = body["model"]["vocab"]
    last = max(vocabulary.values())
    vocabulary |= {"qx": last + 1, "xz": last + 2, "qxz": last + 3}
    body["model"]["merges"] += [["q", "x"], ["x", "z"], ["qx", "z"], ["q", "xz"]]


def lose_a_byte(body) -> None:
    used = {character for pair in body["model"]["merges"] for part in pair for character in part}
    unused = next(each for each in pre_tokenizers.ByteLevel.alphabet() if each not in used)
    del body["model"]["vocab"][unused]


CHANGES = {
    "merge order": swap_merges,
    "two merges": make_a_token_twice,
    "dropout": lambda body: body["model"].update(dropout=0.1),
    "suffix": lambda body: body["model"].update(end_of_word_suffix="</w>"),
    "byte missing": lose_a_byte,
    "prefix space": lambda body: body["pre_tokenizer"].update(add_prefix_space=True),
    "other expression": lambda body: body.update(pre_tokenizer={"type": "Whitespace"}),
    "lower case": lambda body: body.update(normalizer={"type": "Lowercase"}),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_is_not_proved_is_left_to_the_library(change):
    inner = trained(vocab_size=400)
    assert byte_pair_encoder(inner) is not None
    assert byte_pair_encoder(changed(inner, change)) is None


def test_arrays_are_the_lists_with_little_text_and_with_much(monkeypatch):
    tokenizer = FastTokenizer(trained(), end_of_text="<|endoftext|>")
    text = SAMPLE.read_text(encoding="utf-8")
    texts = [text[start:end] for start, end in pairwise(range(0, len(text), 3000))] + NASTY
    expected = tokenizer.encode_batch(texts)
    little = tokenizer.encode_arrays(texts)
    assert "_byte_pairs" not in vars(tokenizer)
    monkeypatch.setattr(_fast, "_LITTLE_TEXT", 1)
    much = tokenizer.encode_arrays(texts)
    assert vars(tokenizer)["_byte_pairs"] is not None
    assert [ids.tolist() for ids in little] == expected
    assert [ids.tolist() for ids in much] == expected

"""The contract of the kind ``generation``."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from typing import Any

import pytest
import torch

from llmforge.component import Component
from llmforge.errors import UsageError
from llmforge.interfaces import (
    Completion,
    Continuation,
    ContinuationUpdate,
    GenerationRequest,
    Generator,
    RunContext,
)
from llmforge.testing.contracts.base import Contract, build
from llmforge.testing.stand_ins import TinyTokenizer
from llmforge.testing.tiny_model import TinyModel

TOKEN_PROMPTS = "token_prompts"
"""What a generator supports that is given prompts as tokens."""

CONTINUOUS = "continuous_batching"
"""What a generator supports that has a ``new_batch``."""

PROMPTS = ("The river", "Bees", "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich")


class GenerationContract(Contract):
    """Continues prompts in order, repeatably, without touching the model."""

    @pytest.fixture
    def model(self) -> TinyModel:
        """A model in evaluation mode with a context shorter than one of the prompts."""
        torch.manual_seed(4)
        model = TinyModel(context=32)
        model.eval()
        return model

    @pytest.fixture
    def generator(self, plugin: Component, run: RunContext, model: TinyModel) -> Generator:
        """The generator under test."""
        return self._build(plugin, run, model, TinyTokenizer())

    def _build(
        self, plugin: Component, run: RunContext, model: TinyModel, tokenizer: TinyTokenizer
    ) -> Generator:
        built: Generator = build(
            plugin, "forge_build_generator", run=run, model=model, tokenizer=tokenizer
        )
        return built

    def test_completions_come_prompt_by_prompt(self, generator: Generator) -> None:
        done = generator.generate(GenerationRequest(prompts=PROMPTS, samples=2))
        assert [item.prompt for item in done] == [name for name in PROMPTS for _ in range(2)]
        for item in done:
            assert isinstance(item, Completion)
            assert item.finish in {"length", "eos", "stop"}
            assert item.tokens >= 0
            assert item.seconds >= 0

    def test_the_text_is_the_continuation_without_the_prompt(self, generator: Generator) -> None:
        (item,) = generator.generate(GenerationRequest(prompts=[PROMPTS[0]]))
        assert not item.text.startswith(PROMPTS[0])

    def test_no_prompts_give_no_completions(self, generator: Generator) -> None:
        assert generator.generate(GenerationRequest(prompts=[])) == []

    def test_equal_seeds_give_equal_texts(self, generator: Generator) -> None:
        request = GenerationRequest(prompts=PROMPTS, samples=2, seed=5)
        torch.manual_seed(6)
        first = [item.text for item in generator.generate(request)]
        torch.manual_seed(7)
        assert [item.text for item in generator.generate(request)] == first

    def test_drawing_leaves_torchs_own_generator_alone(self, generator: Generator) -> None:
        before = torch.random.get_rng_state()
        generator.generate(GenerationRequest(prompts=PROMPTS))
        assert torch.equal(torch.random.get_rng_state(), before)

    def test_the_pieces_told_while_generating_are_the_text(self, generator: Generator) -> None:
        told: defaultdict[int, str] = defaultdict(str)

        def on_text(index: int, piece: str) -> None:
            told[index] += piece

        done = generator.generate(GenerationRequest(prompts=PROMPTS, samples=2, on_text=on_text))
        assert [told[index] for index in range(len(done))] == [item.text for item in done]

    def test_an_empty_prompt_begins_from_the_end_of_text(self, generator: Generator) -> None:
        (item,) = generator.generate(GenerationRequest(prompts=[""]))
        assert item.prompt == ""

    def test_an_empty_prompt_without_end_of_text_is_refused(
        self, plugin: Component, run: RunContext, model: TinyModel
    ) -> None:
        tokenizer = TinyTokenizer()
        tokenizer.eos_id = None
        generator = self._build(plugin, run, model, tokenizer)
        with pytest.raises(UsageError):
            generator.generate(GenerationRequest(prompts=[""]))

    def test_it_continues_tokens_as_it_does_their_text(
        self, plugin: Component, generator: Generator
    ) -> None:
        if TOKEN_PROMPTS not in plugin.supports:
            return  # it is never given any
        ids = TinyTokenizer().encode_batch(list(PROMPTS))
        texts = generator.generate(GenerationRequest(prompts=PROMPTS, max_new_tokens=3))
        tokens = generator.generate(
            GenerationRequest(prompts=PROMPTS, prompt_ids=ids, max_new_tokens=3)
        )
        assert [item.text for item in tokens] == [item.text for item in texts]
        assert max(item.tokens for item in tokens) == 3

    def test_a_further_token_that_ends_is_no_part_of_the_text(
        self, plugin: Component, generator: Generator
    ) -> None:
        if TOKEN_PROMPTS not in plugin.supports:
            return
        request = GenerationRequest(prompts=PROMPTS[:1], max_new_tokens=4, greedy=True)
        (whole,) = generator.generate(request)
        first = TinyTokenizer().encode(whole.text)[0]
        (ended,) = generator.generate(dataclasses.replace(request, stop_ids=frozenset({first})))
        assert (ended.text, ended.tokens, ended.finish) == ("", 0, "eos")

    def test_a_continuous_batch_writes_what_a_request_alone_does(
        self, plugin: Component, generator: Any
    ) -> None:
        if CONTINUOUS not in plugin.supports:
            return
        batch = generator.new_batch(rows=2, prefix_tokens=0)
        assert batch is not None, "the model has a cache that rows join and leave"
        texts: defaultdict[int, str] = defaultdict(str)
        finishes: dict[int, str | None] = {}

        def report(update: ContinuationUpdate) -> None:
            texts[update.key] += update.text
            finishes[update.key] = update.finish

        prompts = ("The river", "Bees", "The river", "A")
        for key, prompt in enumerate(prompts):
            batch.add(
                Continuation(
                    key=key,
                    prompt=prompt,
                    prompt_ids=TinyTokenizer().encode(prompt),
                    options=plugin.options,
                    max_new_tokens=3 + key,
                    seed=5,
                )
            )
            batch.step(report)
        batch.cancel(2)
        while batch.busy:
            batch.step(report)
        assert finishes.get(2) is None
        for key in (0, 1, 3):
            request = GenerationRequest(prompts=[prompts[key]], seed=5, max_new_tokens=3 + key)
            (alone,) = generator.generate(request)
            assert (texts[key], finishes[key]) == (alone.text, alone.finish)

    def test_the_model_is_left_as_it_was(self, generator: Generator, model: TinyModel) -> None:
        before = {name: value.clone() for name, value in model.state_dict().items()}
        generator.generate(GenerationRequest(prompts=PROMPTS))
        assert not model.training
        assert all(parameter.grad is None for parameter in model.parameters())
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

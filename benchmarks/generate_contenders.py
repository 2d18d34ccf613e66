"""What ``generate.py`` compares: each contender is a process that generates on request.

A contender gets a case, which is a JSON object, as its argument, and then an order a line. It
answers each with the seconds that took and the tokens. llama.cpp's runs in a Python of its own, so
nothing but the standard library is imported before it is known which contender this is.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

VOCABULARY = 8192
CONTEXT = 256
MODES: dict[str, dict[str, Any]] = {
    "greedy": {"greedy": True},
    "temperature": {"temperature": 0.8},
    "top-k, top-p": {"temperature": 0.8, "top_k": 50, "top_p": 0.95},
    "top-p": {"temperature": 0.8, "top_p": 0.95},
}
MODELS: dict[str, dict[str, Any]] = {
    "gpt2": {"positions": "learned", "norm": "layernorm", "activation": "gelu_tanh", "bias": True},
    "default": {},
}
LOOKUP = 8
"""Most tokens proposed by the contenders with prompt lookup."""

Prompts = list[list[int]]
Generate = Callable[[Prompts, dict[str, Any]], Prompts]


class Numbers:
    """A tokenizer whose texts are numbers, so that no time goes into text."""

    eos_id = None
    fingerprint = "numbers"

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    def encode_batch(self, texts: Sequence[str]) -> Prompts:
        """Return the numbers in each text."""
        return [[int(number) for number in text.split()] for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the numbers as text; each begins with a space."""
        return "".join(f" {number}" for number in ids)


def own_model(case: dict[str, Any]) -> Any:
    """Return llmforge's transformer: that of the run, or one of random weights, always the same."""
    import torch

    from llmforge.generation import load_checkpoint
    from llmforge_plugins.models._transformer import TransformerModel
    from llmforge_plugins.models.transformer import Transformer

    if case["run"] is not None:
        return load_checkpoint(checkpoint(case), device="cpu", dtype="fp32").model
    torch.manual_seed(1)
    options = Transformer.Options(
        layers=case["layers"],
        width=case["width"],
        heads=max(1, case["width"] // 64),
        context=CONTEXT,
        **MODELS[case["model"]],
    )
    return TransformerModel(options.shape(), vocab_size=VOCABULARY).eval()


def checkpoint(case: dict[str, Any]) -> Any:
    """Return the newest checkpoint of the run whose weights are used."""
    from llmforge.generation import locate

    run = Path(case["run"])
    return locate(f"{run.name}@last", root=run.parent)


def llmforge_generate(case: dict[str, Any]) -> Generate:
    """Return llmforge's transformer under its sampler."""
    import torch

    from llmforge.generation.int8_layers import quantise_layers
    from llmforge.interfaces import GenerationRequest
    from llmforge_plugins.generation._sampler import TextSampler
    from llmforge_plugins.generation.sampler import Sampler

    kind = case["contender"].split()[1]
    model = own_model(case).to(torch.bfloat16 if kind == "bf16" else torch.float32)
    if kind == "int8":
        quantise_layers(model)
    lookup = LOOKUP if case["contender"].endswith("lookup") else 0
    tokenizer: Any = Numbers(model.vocab_size)

    def generate(prompts: Prompts, mode: dict[str, Any]) -> Prompts:
        sampler = TextSampler(
            Sampler.Options(max_new_tokens=case["tokens"], lookup=lookup, **mode),
            model=model,
            tokenizer=tokenizer,
            notice=print,
        )
        texts = [tokenizer.decode(prompt) for prompt in prompts]
        done = sampler.generate(GenerationRequest(prompts=texts))
        return list(tokenizer.encode_batch([item.text for item in done]))

    return generate


def transformers_generate(case: dict[str, Any]) -> Generate:
    """Return the same weights, exported, under ``transformers`` ``generate``."""
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig
    from transformers.utils import logging

    logging.set_verbosity_error()
    dtype = torch.bfloat16 if case["contender"].endswith("bf16") else torch.float32
    model: Any = AutoModelForCausalLM.from_pretrained(Path(case["folder"]) / "hf", dtype=dtype)
    model.eval().generation_config = GenerationConfig()  # the end-of-text token ends nothing

    def generate(prompts: Prompts, mode: dict[str, Any]) -> Prompts:
        settings: dict[str, Any] = {"do_sample": False}
        if not mode.get("greedy"):
            settings = {"do_sample": True, "top_k": 0, **mode}
        inputs = torch.tensor(prompts)
        done = model.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=case["tokens"],
            pad_token_id=0,
            **settings,
        )
        return list(done[:, inputs.shape[1] :].tolist())

    return generate


def llama_cpp_generate(case: dict[str, Any]) -> Generate:
    """Return the same weights, exported to GGUF, under llama.cpp's package for Python."""
    from llama_cpp import Llama

    kind = case["contender"].split()[1]
    llama = Llama(
        str(Path(case["folder"]) / f"{kind}.gguf"),
        n_ctx=case["context"],
        n_threads=case["threads"],
        n_threads_batch=case["threads"],
        verbose=False,
    )

    def generate(prompts: Prompts, mode: dict[str, Any]) -> Prompts:
        (prompt,) = prompts
        settings = {
            "temp": 0.0 if mode.get("greedy") else mode["temperature"],
            "top_k": mode.get("top_k", 0),
            "top_p": mode.get("top_p", 1.0),
            "min_p": 0.0,
        }
        found: list[int] = []
        for token in llama.generate(prompt, **settings):
            found.append(int(token))
            if len(found) == case["tokens"]:
                break
        return [found]

    return generate


MAKERS: dict[str, Callable[[dict[str, Any]], Generate]] = {
    "llmforge": llmforge_generate,
    "transformers": transformers_generate,
    "llama.cpp": llama_cpp_generate,
}


def work(case: dict[str, Any]) -> None:
    """Be one contender: answer each line on standard input."""
    maker = case["contender"].split()[0]
    if maker != "llama.cpp":
        import torch

        torch.manual_seed(1)
        if case["threads"]:
            torch.set_num_threads(case["threads"])
    clock = time.process_time if case["clock"] == "cpu" else time.perf_counter
    generate = MAKERS[maker](case)
    for line in sys.stdin:
        order = json.loads(line)
        began = clock()
        tokens = generate(order["prompts"], MODES[order["mode"]])
        seconds = clock() - began
        assert all(len(row) == case["tokens"] for row in tokens)
        print(json.dumps({"seconds": seconds, "tokens": tokens}), flush=True)


# The weights, for the others -------------------------------------------------------------------


def export(case: dict[str, Any]) -> None:
    """Write the weights for ``transformers`` and as the GGUF files of ``case["gguf"]``."""
    from llmforge.export.gguf_file import write_gguf

    folder = Path(case["folder"])
    target = folder / "hf"
    if case["run"] is not None:
        from llmforge.export import export_folder

        export_folder(checkpoint(case), target)
    else:
        target.mkdir()
        tokenizer: Any = Numbers(VOCABULARY)
        own_model(case).save_hugging_face(target, tokenizer=tokenizer, max_shard_size=1 << 40)
        _write_tokenizer(target)
    for kind in case["gguf"]:
        dtype = {"f16": "fp16"}.get(kind, kind)
        write_gguf(target, folder / f"{kind}.gguf", dtype=dtype, name="benchmark")


def _write_tokenizer(folder: Path) -> None:
    """Write a tokenizer of bytes: a GGUF file has to have one, and nothing here asks it."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    letters = {letter: at for at, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(letters, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "special_tokens_map.json").write_text("{}", encoding="utf-8")


if __name__ == "__main__":
    {"work": work, "export": export}[sys.argv[1]](json.loads(sys.argv[2]))

"""Tokens per second and time to the first token of ``forge serve`` against others, same weights.

A Llama of random weights is built twice: as llmforge's transformer, saved as a run, and as
``LlamaForCausalLM``. Served are the first by ``forge serve`` and the second by ``generate`` of
transformers behind FastAPI, one request after the other as it cannot do more; ``one by one`` is
llmforge's own ``generate`` without a server. 1, 8 and 32 clients send a request each, all at once,
and read streams. The rounds take turns, so that whatever else the machine does meets all alike.

    python benchmarks/serving.py                    # needs: pip install -e '.[serve,bench]' httpx
    python benchmarks/serving.py --size 4x256 --rounds 1 --threads 1
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

VOCABULARY = 4096
CONTEXT = 512
PROMPT = 32
CONTENDERS = ("one by one", "transformers", "forge serve")
RECIPE = """\
[model]
name = "transformer"
[model.transformer]
layers = {layers}
width = {width}
heads = {heads}
context = {context}
tie_embeddings = false
[tokenizer]
name = "ids"
[data]
name = "tokens"
[data.tokens]
train = "nowhere.npy"
vocab_size = {vocabulary}
[train]
max_steps = 10
[generation.sampler]
temperature = 0.8
"""


# The weights, twice -----------------------------------------------------------------------


def save_models(root: Path, size: str) -> None:
    """Save the same random weights as the run ``served`` and for transformers."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from llmforge_plugins.models._transformer import TransformerModel
    from llmforge_plugins.models.transformer import Transformer

    layers, width = map(int, size.split("x"))
    heads = max(1, width // 64)
    torch.manual_seed(1)
    options = Transformer.Options(
        layers=layers, width=width, heads=heads, context=CONTEXT, tie_embeddings=False
    )
    own = TransformerModel(options.shape(), vocab_size=VOCABULARY).eval()
    with torch.no_grad():
        own.head.weight.mul_(10)  # probabilities far enough from uniform to be compared
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=own.shape.feed_forward,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=CONTEXT,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    llama = LlamaForCausalLM(config).eval()
    llama.load_state_dict(_llama_weights(own))
    inputs = torch.randint(VOCABULARY, (2, PROMPT))
    with torch.no_grad():
        torch.testing.assert_close(own(inputs), llama(inputs).logits, rtol=1e-3, atol=1e-3)
    llama.save_pretrained(root / "llama")
    recipe = RECIPE.format(
        layers=layers, width=width, heads=heads, context=CONTEXT, vocabulary=VOCABULARY
    )
    _save_run(root / "served", recipe, own)


def _llama_weights(own: Any) -> dict[str, Any]:
    weights = {
        "model.embed_tokens.weight": own.embedding.weight,
        "model.norm.weight": own.norm.weight,
        "lm_head.weight": own.head.weight,
    }
    for index, block in enumerate(own.blocks):
        width = block.attention.out.weight.shape[0]
        queries, keys, values = block.attention.qkv.weight.split(width)
        gate, up = block.feed_forward.up.weight.chunk(2)
        layer = {
            "self_attn.q_proj": queries,
            "self_attn.k_proj": keys,
            "self_attn.v_proj": values,
            "self_attn.o_proj": block.attention.out.weight,
            "mlp.gate_proj": gate,
            "mlp.up_proj": up,
            "mlp.down_proj": block.feed_forward.down.weight,
            "input_layernorm": block.attention_norm.weight,
            "post_attention_layernorm": block.feed_forward_norm.weight,
        }
        weights |= {f"model.layers.{index}.{name}.weight": part for name, part in layer.items()}
    return weights


def _save_run(path: Path, recipe: str, model: Any) -> None:
    from llmforge.checkpoint import CheckpointWriter, Retention, SaveRequest, SelfDescription
    from llmforge.recipe import load_recipe, to_toml
    from llmforge.rundir import RunDirectory, RunRecord, write_record
    from llmforge_plugins.tokenizers.ids import IdTokenizer

    directory = RunDirectory(path)
    directory.tokenizer.mkdir(parents=True)
    directory.recipe.write_text(recipe)
    text = to_toml(load_recipe(directory.recipe).tables)
    directory.recipe.write_text(text)
    write_record(directory, RunRecord(path.name, state="completed", started=time.time()))
    IdTokenizer(VOCABULARY, eos_id=None).save(directory.tokenizer)
    with CheckpointWriter(
        directory.checkpoints,
        description=SelfDescription(
            recipe=text, recipe_hash="0" * 64, tokenizer=directory.tokenizer
        ),
        retention=Retention(keep_last=1, keep_best=1),
        on_saved=lambda _: None,
    ) as writer:
        weights = {name: part.detach() for name, part in model.named_parameters()}
        writer.submit(
            SaveRequest(
                step=1,
                model=weights,
                optimizer={},
                trainer={},
                metadata={},
                is_best=True,
                required=True,
            )
        )


# The contenders ---------------------------------------------------------------------------


def serve_transformers(root: Path, threads: int) -> None:
    """Serve ``generate`` of transformers: a stream of ids, one request after the other."""
    import torch
    import uvicorn
    from fastapi import FastAPI, Request
    from fastapi.responses import StreamingResponse
    from transformers import LlamaForCausalLM
    from transformers.generation.streamers import BaseStreamer

    torch.set_num_threads(threads)
    model = LlamaForCausalLM.from_pretrained(root / "llama").eval()
    app = FastAPI()
    lock = asyncio.Lock()

    class Ids(BaseStreamer):
        def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
            self.queue: asyncio.Queue[list[int] | None] = asyncio.Queue()
            self._loop = loop
            self._prompt = True

        def put(self, value: Any) -> None:
            if not self._prompt:
                self._loop.call_soon_threadsafe(self.queue.put_nowait, value.tolist())
            self._prompt = False

        def end(self) -> None:
            self._loop.call_soon_threadsafe(self.queue.put_nowait, None)

    async def completions(request: Request) -> StreamingResponse:
        body = await request.json()

        async def events() -> AsyncIterator[str]:
            async with lock:
                streamer = Ids(asyncio.get_running_loop())
                inputs = torch.tensor([body["prompt"]])
                settings = {
                    "attention_mask": torch.ones_like(inputs),
                    "max_new_tokens": body["max_tokens"],
                    "do_sample": True,
                    "temperature": 0.8,
                    "top_k": 0,
                    "pad_token_id": 0,
                    "streamer": streamer,
                }
                work = asyncio.create_task(asyncio.to_thread(model.generate, inputs, **settings))
                while (ids := await streamer.queue.get()) is not None:
                    yield f"data: {json.dumps({'choices': [{'text': str(ids)}]})}\n\n"
                await work
            yield "data: [DONE]\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    app.add_route("/v1/completions", completions, methods=["POST"])
    config = uvicorn.Config(app, port=0, log_level="warning", access_log=False)
    server = uvicorn.Server(config)

    async def serve() -> None:
        task = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.05)
        port = server.servers[0].sockets[0].getsockname()[1]
        print(f"http://127.0.0.1:{port} answers", file=sys.stderr, flush=True)
        await task

    asyncio.run(serve())


def generate_one_by_one(root: Path, threads: int) -> None:
    """Answer lines of JSON prompts with (seconds, seconds to the first text)."""
    import torch

    from llmforge.generation import build_generator, changed_options, open_checkpoint
    from llmforge.interfaces import GenerationRequest

    torch.set_num_threads(threads)
    loaded = open_checkpoint("served", root=root, device="cpu")
    generator = build_generator(loaded, changed_options(loaded.recipe.selected("generation"), {}))
    print("ready answers", file=sys.stderr, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        began = time.perf_counter()
        first: list[float] = []

        def on_text(_: int, __: str, began: float = began, first: list[float] = first) -> None:
            first.append(time.perf_counter() - began)

        for ids in asked["prompts"]:
            generator.generate(
                GenerationRequest(
                    prompts=[" ".join(map(str, ids))],
                    max_new_tokens=asked["tokens"],
                    on_text=on_text,
                )
            )
        print(json.dumps([time.perf_counter() - began, first[0]]), flush=True)


class Contender:
    """A process that is measured; ``url`` where it answers, empty for the one without a server."""

    def __init__(self, name: str, root: Path, threads: int) -> None:
        own = [sys.executable, __file__, "--work", name, "--root", str(root)]
        command = [*own, "--threads", str(threads)]
        if name == "forge serve":
            command = [sys.executable, "-m", "llmforge", "serve", "served", "--root", str(root)]
            command += ["--port", "0", "--max-batch", "32"]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )
        assert self._process.stderr is not None
        self.url = ""
        said: list[str] = []
        for line in self._process.stderr:
            said.append(line)
            if found := re.search(r"(\S+) answers", line):
                self.url = found[1] if found[1].startswith("http") else ""
                break
        else:
            raise SystemExit(f"{name} did not start:\n{''.join(said)}")
        threading.Thread(target=self._process.stderr.read, daemon=True).start()
        if self.url:
            self._wait()

    def ask(self, prompts: list[list[int]], tokens: int) -> tuple[float, list[float]]:
        """Return the seconds that all prompts took, and those to the first token of each."""
        if self.url:
            return asyncio.run(_all_at_once(self.url, prompts, tokens))
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"prompts": prompts, "tokens": tokens}) + "\n")
        self._process.stdin.flush()
        seconds, first = json.loads(self._process.stdout.readline())
        return seconds, [first]

    def memory(self) -> float:
        """Return the most memory it had, in MiB."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        return int(found[1]) / 1024 if found else float("nan")

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.wait(30)

    def _wait(self) -> None:
        import httpx

        while True:
            try:
                httpx.get(f"{self.url}/openapi.json", timeout=5)
                return
            except httpx.TransportError:
                time.sleep(0.1)


async def _all_at_once(
    url: str, prompts: list[list[int]], tokens: int
) -> tuple[float, list[float]]:
    import httpx

    firsts: list[float] = []

    async def one(client: httpx.AsyncClient, prompt: list[int]) -> None:
        body = {"model": "served", "prompt": prompt, "max_tokens": tokens, "stream": True}
        first = None
        count = 0
        async with client.stream("POST", f"{url}/v1/completions", json=body) as response:
            assert response.status_code == 200, await response.aread()
            async for line in response.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                first = first or time.perf_counter() - began
                count += len(json.loads(line[6:])["choices"][0]["text"].split())
        assert count == tokens, f"{count} tokens of {tokens} came"
        firsts.append(first or 0.0)

    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=600, limits=limits) as client:
        began = time.perf_counter()
        await asyncio.gather(*(one(client, prompt) for prompt in prompts))
        return time.perf_counter() - began, firsts


# The rounds -------------------------------------------------------------------------------


def measure(root: Path, arguments: argparse.Namespace) -> None:
    """Print the table."""
    draw = random.Random(7)
    contenders = {name: Contender(name, root, arguments.threads) for name in CONTENDERS}
    rates: dict[tuple[int, str], list[float]] = {}
    firsts: dict[tuple[int, str], list[float]] = {}
    try:
        for turn in range(arguments.rounds + 1):
            for clients in arguments.clients:
                prompts = [
                    [draw.randrange(VOCABULARY) for _ in range(PROMPT)] for _ in range(clients)
                ]
                for name, contender in contenders.items():
                    # all requests of the one without a server are alike: four tell its pace
                    asked = prompts[:4] if name == CONTENDERS[0] else prompts
                    tokens = arguments.tokens if turn else 4
                    seconds, first = contender.ask(asked, tokens)
                    if turn:  # the first round warms up
                        rates.setdefault((clients, name), []).append(len(asked) * tokens / seconds)
                        firsts.setdefault((clients, name), []).extend(first)
        print(
            f"{'clients':>7}  {'contender':12} {'tokens/s':>9}  {'to one by one':22} "
            f"{'first token p50':>15} {'p99':>8}"
        )
        for line in _rows(arguments.clients, rates, firsts):
            print(line)
        print("\nmost memory: ", end="")
        print(", ".join(f"{name} {item.memory():,.0f} MiB" for name, item in contenders.items()))
    finally:
        for contender in contenders.values():
            contender.close()


def _rows(
    clients: list[int],
    rates: dict[tuple[int, str], list[float]],
    firsts: dict[tuple[int, str], list[float]],
) -> Iterator[str]:
    for count in clients:
        for name in CONTENDERS:
            mine, base = rates[count, name], rates[count, CONTENDERS[0]]
            ratios = [one / other for one, other in zip(mine, base, strict=True)]
            ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            waits = sorted(firsts[count, name])
            last = waits[min(len(waits) - 1, round(0.99 * len(waits)))]
            yield (
                f"{count:7}  {name:12} {statistics.median(mine):9,.0f}  {ratio:22} "
                f"{1000 * statistics.median(waits):12,.0f} ms {1000 * last:5,.0f} ms"
            )


def main() -> None:
    """Run the benchmark, or be one of its contenders."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="6x384", help="LAYERSxWIDTH")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work == "transformers":
        serve_transformers(arguments.root, arguments.threads)
    elif arguments.work == "one by one":
        generate_one_by_one(arguments.root, arguments.threads)
    else:
        with tempfile.TemporaryDirectory() as folder:
            save_models(Path(folder), arguments.size)
            print(f"{arguments.size}, {arguments.threads} threads, {arguments.tokens} tokens each")
            measure(Path(folder), arguments)


if __name__ == "__main__":
    main()

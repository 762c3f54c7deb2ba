"""The write stage through an OpenAI-compatible server beside a plain asyncio loop that asks the same server the same things.

    python benchmarks/server_stage.py [--rows 96] [--slots 4] [--concurrency 4] [--rounds 3] [--part 32]

The server is llama.cpp's own with SmolLM2-135M, in a process of its own, with `slots` sequences at once; `concurrency` requests are in flight on
both sides. Our side is a whole `ctrlsynth run` of the stage: parts, tables, the adaptive limit, retries armed. The plain side is
`asyncio.gather` under a semaphore over the official client, keeps nothing, and starts with its limit open. The sides take turns, so that a busy
machine slows both; replies are capped at 48 tokens. Goal: at least 0.95 of the plain loop's rows a second.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any

from ctrlsynth.plan import make_plan
from ctrlsynth.recipe_file import parse_recipe
from ctrlsynth.runs import Run, run
from helpers import write_captions
from servers import LlamaServer

TOKENS = 48


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--part", type=int, default=32)
    options = parser.parse_args()
    with LlamaServer(slots=options.slots) as server, tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        write_captions(base / "captions.jsonl", options.rows)
        bodies = requests(base, server.url, options)
        asyncio.run(plain(server.url, bodies[: 2 * options.slots], options.concurrency))  # the server warm
        seconds, tokens = [0.0, 0.0], [0, 0]
        for number in range(options.rounds):
            for side in (0, 1) if number % 2 else (1, 0):
                took, made = ours(base, number, server.url, options) if side == 0 else asyncio.run(plain(server.url, bodies, options.concurrency))
                seconds[side] += took
                tokens[side] += made
    rates = [tokens[side] / seconds[side] for side in (0, 1)]
    rows = [options.rows * options.rounds / seconds[side] for side in (0, 1)]
    print(f"write stage {rows[0]:.2f} rows/s ({rates[0]:.1f} tokens/s), plain loop {rows[1]:.2f} rows/s ({rates[1]:.1f} tokens/s)")
    print(f"ratio {rows[0] / rows[1]:.3f} in rows, {rates[0] / rates[1]:.3f} in tokens (goal 0.95)")
    print(f"{options.rounds} rounds of {options.rows} rows, {options.slots} slots, {options.concurrency} requests in flight")


def recipe(base: Path, url: str, options: argparse.Namespace) -> Any:
    """Captions rewritten by the server."""
    model = {"openai": "smollm2", "base_url": url, "concurrency": options.concurrency, "max_tokens": TOKENS, "timeout": 600, "deadline": 3000}
    return parse_recipe(
        {
            "name": "server-stage",
            "source": {"text": str(base / "captions.jsonl"), "part_rows": options.part, "key_column": "key"},
            "models": {"tagger": "wordnet", "llm": model},
            "paths": [{"rewrite": ["text", "text*"]}],
        }
    )


def requests(base: Path, url: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The very bodies that the stage sends, taken from a run whose model notes them."""
    plan = make_plan(recipe(base, url, options), base)
    model = next(iter(plan.models.values()))
    made = ours(base, -1, url, options, keep=(rows := []))
    del made
    return [model.body(request) for request in rows]


def ours(base: Path, number: int, url: str, options: argparse.Namespace, keep: list[Any] | None = None) -> tuple[float, int]:
    """(seconds, tokens) of a run."""
    raise NotImplementedError


async def plain(url: str, bodies: list[dict[str, Any]], concurrency: int) -> tuple[float, int]:
    """(seconds, tokens) of the plain loop."""
    import openai

    gate = asyncio.Semaphore(concurrency)
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:

        async def one(body: dict[str, Any]) -> int:
            async with gate:
                reply = await client.chat.completions.create(**body)
            return int(reply.usage.completion_tokens)

        start = time.perf_counter()
        made = await asyncio.gather(*map(one, bodies))
        return time.perf_counter() - start, sum(made)


if __name__ == "__main__":
    main()

"""The write stage through an OpenAI-compatible server beside a plain asyncio loop that asks the same server
the same things.

    python benchmarks/server_stage.py [--rows 96] [--slots 4] [--concurrency 4] [--rounds 3] [--part 32]

The server is llama.cpp's own with SmolLM2-135M, in a process of its own, with `slots` sequences at once;
`concurrency` requests are in flight on both sides. Ours is the stage of a whole run, from its beginning to
its `_stage.json`: parts, tables, the adaptive limit, retries armed. The plain side is `asyncio.gather` under
a semaphore over the official client; it keeps nothing, and starts with its limit open. The sides take turns,
so that a busy machine slows both; replies are capped at 48 tokens. Goal: at least 0.95 of the plain loop's
rows a second."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import harness
from ctrlsynth.api.run import Run, run
from ctrlsynth.models.base import Request
from ctrlsynth.models.registry import load
from ctrlsynth.recipe.file import parse_recipe
from llm_engine import processor_seconds

sys.path.append(str(Path(__file__).parent.parent / "tests"))
from helpers import write_captions
from servers import LlamaServer

TOKENS = 48


def main() -> None:
    numbers = {"rows": 96, "slots": 4, "concurrency": 4, "rounds": 3, "part": 32}
    options = harness.parser(__doc__, **numbers).parse_args()
    with LlamaServer(slots=options.slots) as server, tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        write_captions(base / "captions.jsonl", options.rows)
        made = ours(base, "warm", server.url, options)[
            2
        ]  # the server warm on the prompts that both sides send
        writer = load(model(server.url, options), "llm")
        bodies = [writer.body(Request(row["instruction"], max_tokens=TOKENS)) for row in made.rows("write")]
        seconds, tokens, busy = [0.0, 0.0], [0, 0], [0.0, 0.0]
        for number in range(options.rounds):
            for side in (0, 1) if number % 2 else (1, 0):
                before = processor_seconds([server.pid])
                if side == 0:
                    took, count, _ = ours(base, str(number), server.url, options)
                else:
                    took, count = asyncio.run(plain(server.url, bodies, options.concurrency))
                seconds[side] += took
                tokens[side] += count
                busy[side] += processor_seconds([server.pid]) - before
    rates = [tokens[side] / seconds[side] for side in (0, 1)]
    rows = [options.rows * options.rounds / seconds[side] for side in (0, 1)]
    print(
        f"write stage {rows[0]:.2f} rows/s ({rates[0]:.1f} tokens/s), plain loop {rows[1]:.2f} rows/s "
        f"({rates[1]:.1f} tokens/s)"
    )
    print(f"ratio {rows[0] / rows[1]:.3f} in rows, {rates[0] / rates[1]:.3f} in tokens (goal 0.95)")
    each = [tokens[side] / busy[side] for side in (0, 1)]
    print(
        f"tokens a processor second of the server: {each[0]:.1f} and {each[1]:.1f}, ratio "
        f"{each[0] / each[1]:.3f}"
    )
    idle = [1 - busy[side] / seconds[side] for side in (0, 1)]
    print(
        f"the server's one thread was idle, or waiting for the processor, {idle[0]:.0%} and {idle[1]:.0%} "
        f"of the time"
    )
    print(
        f"{options.rounds} rounds of {options.rows} rows, {options.slots} slots, {options.concurrency} "
        f"requests in flight"
    )


def model(url: str, options: argparse.Namespace) -> dict[str, Any]:
    """The server as a recipe names it."""
    return {
        "openai": "smollm2",
        "base_url": url,
        "concurrency": options.concurrency,
        "max_tokens": TOKENS,
        "timeout": 600,
        "deadline": 3000,
    }


def ours(base: Path, name: str, url: str, options: argparse.Namespace) -> tuple[float, int, Run]:
    """(seconds of the write stage, tokens, the run) of captions rewritten by the server."""
    recipe = parse_recipe(
        {
            "name": "server-stage",
            "source": {"text": "captions.jsonl", "part_rows": options.part, "key_column": "key"},
            "models": {"tagger": "wordnet", "llm": model(url, options)},
            "paths": [{"rewrite": ["text", "text*"]}],
            "text_policy": {"max_tokens": TOKENS},
        }
    )
    clock = harness.StageClock("write")
    made = run(recipe, base / name, base=base, watcher=clock)
    row = next(r for r in made.ledger() if r.folder == "write")
    assert row.rows == options.rows
    return clock.ended - clock.began, sum(r["completion_tokens"] or 0 for r in made.rows("write")), made


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

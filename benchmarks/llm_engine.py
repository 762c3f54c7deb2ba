"""Tokens per second of `smollm2` (through `generate`) beside as many llama.cpp engines called directly with
the same prompts.

    python benchmarks/llm_engine.py [--requests 120] [--processes N] [--chunk 20]

Both sides reset the slot to the prompt's fixed head before each request. The direct side is a plain loop over
`xllamacpp.Server` in each process, which gets its share of a chunk at once. The two sides take turns, so that
a busy machine slows both. The first ratio is by the clock (goal: at least 0.95); the second by the processor
time of the engine processes, which other work on the machine disturbs less. The requests are also asked in
the opposite order, and the texts that differ are counted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import harness
from ctrlsynth.models.base import Request
from ctrlsynth.models.device import cores
from ctrlsynth.models.llms.llama_cpp.engine import SmolLM2, smollm2_file
from ctrlsynth.models.llms.llama_cpp.pool import Task
from ctrlsynth.sample import Tags

DIRECT = r"""
import json, sys
import xllamacpp
p = xllamacpp.CommonParams()
p.model.path, p.n_ctx, p.n_parallel, p.n_gpu_layers = sys.argv[1], 2048, 1, 0
p.cpuparams.n_threads = p.cpuparams_batch.n_threads = 1
p.verbosity, p.warmup, p.cache_ram_mib, p.n_ctx_checkpoints = -1, False, 0, 0
server = xllamacpp.Server(p)
for line in sys.stdin:
    said = []
    for task in json.loads(line):
        server.handle_completions(task["head"])
        reply = server.handle_completions(task["body"])
        said.append([reply["usage"]["completion_tokens"], reply["choices"][0]["text"]])
    print(json.dumps(said), flush=True)
"""
OBJECTS = (
    "dog cat horse bird car bicycle boat tree house chair table lamp ball kite umbrella bridge train "
    "flower cup clock".split()
)
COLOURS = "red blue green yellow white black brown grey orange purple".split()
RELATIONS = "on,under,next to,behind,in front of,near,beside,above".split(",")


def requests(n: int) -> list[Request]:
    """Tag sets of two objects, two attributes and a relation."""
    out = []
    for i in range(n):
        a, b = OBJECTS[i % 20], OBJECTS[(i * 7 + 3) % 20]
        b = b if b != a else "wall"
        attributes = (f"{COLOURS[i % 10]} {a}", f"{COLOURS[(i * 3 + 1) % 10]} {b}")
        out.append(Request("", Tags((a, b, "garden"), attributes, (f"{a} {RELATIONS[i % 8]} {b}",)), seed=i))
    return out


class Direct:
    """Engines without anything around them."""

    def __init__(self, processes: int) -> None:
        command = [sys.executable, "-c", DIRECT, str(smollm2_file())]
        pipe = subprocess.PIPE
        self.running = [
            subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
            for _ in range(processes)
        ]

    def ask(self, tasks: list[Task]) -> list[tuple[int, str]]:
        """(tokens, text) of each task; engine i takes every n-th from the i-th on."""
        n = len(self.running)
        out: list[tuple[int, str]] = [(0, "")] * len(tasks)
        for i, process in enumerate(self.running):
            assert process.stdin is not None
            process.stdin.write(json.dumps(tasks[i::n]) + "\n")
            process.stdin.flush()
        for i, process in enumerate(self.running):
            assert process.stdout is not None
            out[i::n] = [(tokens, text) for tokens, text in json.loads(process.stdout.readline())]
        return out

    def close(self) -> None:
        for process in self.running:
            process.kill()
            process.wait()


def processor_seconds(pids: list[int]) -> float:
    """User and system time of these processes so far (Linux)."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(one[11]) + int(one[12]) for one in fields) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--requests", type=int, default=120)
    parser.add_argument("--processes", type=int, default=cores())
    parser.add_argument("--chunk", type=int, default=20)
    options = parser.parse_args()
    asked = requests(options.requests)
    model, plain = SmolLM2(processes=options.processes), Direct(options.processes)
    tasks = [task for task in map(model.task, asked) if task is not None]
    model.generate(asked[: options.processes * 2])  # engines started, heads read
    plain.ask(tasks[: options.processes * 2])
    seconds, tokens = [0.0, 0.0], [0, 0]
    pids = [model.pool.pids(), [process.pid for process in plain.running]]
    before = [processor_seconds(one) for one in pids]
    texts: list[str] = []
    theirs: list[str] = []
    for number, at in enumerate(range(0, len(asked), options.chunk)):
        for side in (0, 1) if number % 2 else (1, 0):
            start = time.perf_counter()
            if side == 0:
                replies = model.generate(asked[at : at + options.chunk])
                seconds[0] += time.perf_counter() - start
                tokens[0] += sum(reply.completion_tokens or 0 for reply in replies)
                texts += [reply.text for reply in replies]
            else:
                said = plain.ask(tasks[at : at + options.chunk])
                seconds[1] += time.perf_counter() - start
                tokens[1] += sum(count for count, _ in said)
                theirs += [text.strip() for _, text in said]
    busy = [processor_seconds(one) - start for one, start in zip(pids, before, strict=True)]
    plain.close()
    ours, reference = tokens[0] / seconds[0], tokens[1] / seconds[1]
    print(
        f"ctrlsynth {ours:.1f} tokens/s, direct {reference:.1f} tokens/s, ratio {ours / reference:.3f} "
        f"(goal 0.95)"
    )
    each = [tokens[side] / busy[side] for side in (0, 1)]
    print(
        f"tokens per processor second: ctrlsynth {each[0]:.1f}, direct {each[1]:.1f}, ratio "
        f"{each[0] / each[1]:.3f}"
    )
    print(
        f"{options.processes} processes, {options.requests} requests, {tokens[0]} tokens, chunks of "
        f"{options.chunk}"
    )
    backward = [reply.text for reply in model.generate(asked[::-1])][::-1]
    model.close()
    print(
        f"texts that differ in the opposite order: "
        f"{sum(a != b for a, b in zip(texts, backward, strict=True))} of {len(texts)}"
    )
    print(
        f"texts that differ from the direct engines': "
        f"{sum(a != b for a, b in zip(texts, theirs, strict=True))} of {len(texts)}"
    )


if __name__ == "__main__":
    main()

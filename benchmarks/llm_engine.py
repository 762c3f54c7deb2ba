"""Tokens per second of `smollm2` (through `generate`) beside as many llama.cpp engines called directly with the same prompts.

    python benchmarks/llm_engine.py [--requests 120] [--processes N] [--rounds 3]

Both sides reset the slot to the prompt's fixed head before each request. The direct side is a loop over `xllamacpp.Server` in each
process, its share of the prompts given beforehand. Rounds alternate, so that a busy machine slows both. Goal: ratio at least 0.95.
The same requests are also asked in the opposite order, and the texts that differ are counted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

from ctrlsynth.models.base import Request
from ctrlsynth.models.llms.llama_cpp import SmolLM2, smollm2_file, usable_cores
from ctrlsynth.sample import Tags

DIRECT = r"""
import json, sys, time
import xllamacpp
share = json.load(sys.stdin)
p = xllamacpp.CommonParams()
p.model.path, p.n_ctx, p.n_parallel, p.n_gpu_layers = sys.argv[1], 2048, 1, 0
p.cpuparams.n_threads = p.cpuparams_batch.n_threads = 1
p.verbosity, p.warmup, p.cache_ram_mib, p.n_ctx_checkpoints = -1, False, 0, 0
server = xllamacpp.Server(p)
server.handle_completions(share[0]["head"])
print("ready", flush=True)
time.sleep(max(0.0, float(sys.argv[2]) - time.time()))
tokens, texts = 0, []
for task in share:
    server.handle_completions(task["head"])
    reply = server.handle_completions(task["body"])
    tokens += reply["usage"]["completion_tokens"]
    texts.append(reply["choices"][0]["text"])
print(json.dumps([tokens, time.time(), texts]))
"""
OBJECTS = "dog cat horse bird car bicycle boat tree house chair table lamp ball kite umbrella bridge train flower cup clock".split()
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


def direct(tasks: list[dict[str, object]], processes: int) -> tuple[float, list[str]]:
    """Tokens per second of `processes` plain loops, from their common start to the end of the last, and the texts."""
    start = time.time() + 4.0
    command = [sys.executable, "-c", DIRECT, str(smollm2_file()), str(start)]
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for _ in range(processes)
    ]
    for i, process in enumerate(running):
        assert process.stdin is not None
        process.stdin.write(json.dumps(tasks[i::processes]))
        process.stdin.close()
    ends, total, texts = [], 0, [""] * len(tasks)
    for i, process in enumerate(running):
        assert process.stdout is not None
        process.stdout.readline()
        tokens, end, said = json.loads(process.stdout.readline())
        process.wait()
        total += tokens
        ends.append(end)
        texts[i::processes] = said
    return total / (max(ends) - start), texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=120)
    parser.add_argument("--processes", type=int, default=usable_cores())
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    asked = requests(options.requests)
    model = SmolLM2(processes=options.processes)
    tasks = [task for task in map(model.task, asked) if task is not None]
    model.generate(asked[: options.processes])  # engines started, heads read
    ratios: list[float] = []
    texts: list[str] = []
    theirs: list[str] = []
    for number in range(options.rounds):
        start = time.time()
        replies = model.generate(asked)
        ours = sum(reply.completion_tokens or 0 for reply in replies) / (time.time() - start)
        texts = [reply.text for reply in replies]
        model.close()  # the direct engines get the machine to themselves, then ours are started again
        reference, theirs = direct(tasks, options.processes)
        model.generate(asked[: options.processes])
        ratios.append(ours / reference)
        print(f"round {number + 1}: ctrlsynth {ours:.1f} tokens/s, direct {reference:.1f} tokens/s, ratio {ratios[-1]:.3f}", flush=True)
    backward = [reply.text for reply in model.generate(asked[::-1])][::-1]
    model.close()
    print(f"median ratio {statistics.median(ratios):.3f} (goal 0.95), {options.processes} processes, {options.requests} requests")
    print(f"texts that differ in the opposite order: {sum(a != b for a, b in zip(texts, backward, strict=True))} of {len(texts)}")
    print(f"texts that differ from the direct engines': {sum(a != b.strip() for a, b in zip(texts, theirs, strict=True))} of {len(texts)}")


if __name__ == "__main__":
    main()

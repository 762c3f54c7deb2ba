"""Every language model beside `realizer`, on the hand-labelled tags of tests/files/web_captions.jsonl.

    python benchmarks/llms.py [--rows 94] [--seeds 1] [--gguf path/to/model.gguf] [--family
    tags|tags+text|text] [--examples 5]

recall        share of the tags that the `lemma` matcher finds in the text, by kind (a text is written from
              the tags alone, unless the family says otherwise)
added         objects that the `wordnet` tagger reads in the text and that are not among the tags (nor in the
              caption, where it was given), per text
distinct-1/2  different words (pairs of words) over all of them, all texts taken together
words         of a text: mean, least, most
yield         share of the texts that pass the judge's rule: recall of all tags >= 0.2
Prompt and reply tokens and seconds are this machine's; only their ratios mean anything.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import harness
from ctrlsynth.lang.matching import rules as matching
from ctrlsynth.models import registry as models
from ctrlsynth.models.base import LanguageModel, Reply, Request
from ctrlsynth.models.embedded.wordnet.tagger import mine
from ctrlsynth.sample import KINDS, Tags

THRESHOLD = 0.2
CAPTIONS = Path(__file__).parent.parent / "tests" / "files" / "web_captions.jsonl"


def rows(limit: int) -> list[tuple[str, Tags]]:
    """(caption, tags as labelled by hand); captions without tags are left out."""
    labelled = [json.loads(line) for line in CAPTIONS.read_text("utf-8").splitlines()]
    both = [
        (one["caption"], Tags(tuple(one["objects"]), tuple(one["attributes"]), tuple(one["relations"])))
        for one in labelled
    ]
    return [(caption, tags) for caption, tags in both if tags.phrases()][:limit]


def requests(data: list[tuple[str, Tags]], family: str, seeds: int) -> list[Request]:
    out = []
    for seed in range(seeds):
        for n, (caption, tags) in enumerate(data):
            shown = caption if family != "tags" else None
            given = Tags() if family == "text" else tags
            ask = (
                f"Write one plain sentence that describes an image with these phrases: "
                f"{', '.join(tags.phrases())}."
            )
            if family == "tags+text":
                phrases = ", ".join(tags.phrases())
                ask = (
                    f"Rewrite this caption as one plain sentence that has these phrases too. Caption: "
                    f"{caption}. Phrases: {phrases}."
                )
            elif family == "text":
                ask = f"Rewrite this image caption in other words, as one plain sentence: {caption}"
            out.append(
                Request(
                    f"{ask} Output only the sentence.",
                    given,
                    shown,
                    family,
                    seed=seed * 1000 + n,
                    max_tokens=80,
                )
            )
    return out


def added(text: str, tags: Tags, caption: str | None) -> list[str]:
    """Objects of the text that neither tags nor caption name."""
    known = [*tags.objects, *tags.attributes, *tags.relations, caption or ""]
    return [
        name
        for name in mine(text).objects
        if not any(matching.in_text([name], phrase)[0] for phrase in known)
    ]


def distinct(texts: list[str], n: int) -> float:
    grams = [
        tuple(words[i : i + n])
        for words in (text.lower().split() for text in texts)
        for i in range(len(words) - n + 1)
    ]
    return len(set(grams)) / max(1, len(grams))


def measure(
    name: str, model: LanguageModel, asked: list[Request], data: list[tuple[str, Tags]], examples: int
) -> dict[str, float]:
    start = time.perf_counter()
    replies: list[Reply] = model.generate(asked)
    seconds = time.perf_counter() - start
    found, wanted = dict.fromkeys(KINDS, 0), dict.fromkeys(KINDS, 0)
    passed, extra = 0, 0
    for n, reply in enumerate(replies):
        caption, tags = data[n % len(data)]
        hits_of_all = 0
        for kind in KINDS:
            hits = matching.in_text(getattr(tags, kind), reply.text, "lemma", tags.objects)
            found[kind] += sum(hits)
            wanted[kind] += len(hits)
            hits_of_all += sum(hits)
        passed += reply.error is None and hits_of_all / len(tags.phrases()) >= THRESHOLD
        extra += len(added(reply.text, tags, caption if asked[n].caption else None))
    texts = [reply.text for reply in replies if reply.error is None]
    lengths = [len(text.split()) for text in texts] or [0]
    for n in range(min(examples, len(replies))):
        print(
            f"    {', '.join(data[n % len(data)][1].phrases())}\n      {name}: "
            f"{replies[n].text or replies[n].error}"
        )
    tokens = sum(reply.completion_tokens or 0 for reply in replies)
    return {
        **{kind: found[kind] / max(1, wanted[kind]) for kind in KINDS},
        "added": extra / len(replies),
        "distinct-1": distinct(texts, 1),
        "distinct-2": distinct(texts, 2),
        "words": sum(lengths) / len(lengths),
        "least": min(lengths),
        "most": max(lengths),
        "yield": passed / len(replies),
        "failed": (len(replies) - len(texts)) / len(replies),
        "texts/s": len(replies) / seconds,
        "tokens/s": tokens / seconds,
    }


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--rows", type=int, default=94)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--family", choices=("tags", "tags+text", "text"), default="tags")
    parser.add_argument(
        "--gguf",
        action="append",
        default=[],
        help="another model, asked with the instruction in its own template",
    )
    parser.add_argument(
        "--zero-shot",
        action="store_true",
        help="also SmolLM2 without the grammar, and with the plain instruction",
    )
    parser.add_argument("--examples", type=int, default=5)
    options = parser.parse_args()
    data = rows(options.rows)
    asked = requests(data, options.family, options.seeds)
    specs: list[tuple[str, object]] = [("realizer", "realizer"), ("smollm2", "smollm2")]
    if options.zero_shot:
        specs.append(("smollm2, no grammar", {"smollm2": None, "bound": False}))
        specs.append(("smollm2, zero-shot", {"smollm2": None, "few_shot": False}))
    specs += [(Path(path).stem, {"llama.cpp": path}) for path in options.gguf]
    table = {}
    for name, spec in specs:
        model = models.load(spec, "llm")
        table[name] = measure(name, model, asked, data, options.examples)
        close = getattr(model, "close", None)
        if close is not None:
            close()
    columns = list(next(iter(table.values())))
    width = max(map(len, table))
    print(
        f"\n{options.family}: {len(asked)} requests\n{'':{width}} "
        + " ".join(f"{column:>10}" for column in columns)
    )
    for name, row in table.items():
        print(f"{name:{width}} " + " ".join(f"{row[column]:10.3f}" for column in columns))


if __name__ == "__main__":
    main()

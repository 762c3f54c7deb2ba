"""How well and how fast the `wordnet` tagger reads captions, with every error.

    python benchmarks/wordnet_tagger.py [--quiet]

Captions labelled by hand: `web_captions.jsonl` (100, labelled before there were rules, then tuned on),
`web_captions_second.jsonl` (30, unseen at first: objects 0.921 precision and 0.875 recall then, attributes
0.878 and 0.857; their faults were then mended) and `web_captions_heldout.jsonl` (30, written after the rules
were fixed; no rule was changed for them). Precision and recall count phrases."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import harness
from ctrlsynth.models.embedded.wordnet.tagger import mine

DATA = Path(__file__).parents[1] / "tests" / "files"
KINDS = ("objects", "attributes", "relations")


def load(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


def score(rows: list[dict[str, Any]], kind: str) -> tuple[float, float, list[str]]:
    """Precision, recall and one line a caption with errors: missed with -, added with +."""
    found = said = right = 0
    errors = []
    for row in rows:
        want, have = {p.lower() for p in row[kind]}, {p.lower() for p in getattr(mine(row["caption"]), kind)}
        found, said, right = found + len(want), said + len(have), right + len(want & have)
        if want != have:
            signs = [f"-{p}" for p in sorted(want - have)] + [f"+{p}" for p in sorted(have - want)]
            errors.append(f"  {row['caption'][:70]:70}  {'; '.join(signs)}")
    return right / max(said, 1), right / max(found, 1), errors


def main() -> None:
    """Prints precision and recall per set of captions and kind of tag, and the speed."""
    parser = harness.parser(__doc__)
    parser.add_argument("--quiet", action="store_true", help="leave out the errors, one line per caption")
    quiet = parser.parse_args().quiet
    for name in ("web_captions.jsonl", "web_captions_second.jsonl", "web_captions_heldout.jsonl"):
        rows = load(name)
        for kind in KINDS:
            precision, recall, errors = score(rows, kind)
            print(f"{name} ({len(rows)} captions) {kind}: precision {precision:.3f}, recall {recall:.3f}")
            if not quiet:
                print("\n".join(errors))
    captions = [row["caption"] for row in load("web_captions.jsonl")] * 100
    words = sum(len(c.split()) for c in captions) / len(captions)
    start = time.process_time()
    for caption in captions:
        mine(caption)
    rate = len(captions) / (time.process_time() - start)
    print(f"speed: {rate:,.0f} captions/s of {words:.1f} words, one thread, warm caches")


if __name__ == "__main__":
    main()

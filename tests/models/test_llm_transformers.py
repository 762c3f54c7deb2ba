"""2b through transformers, on tiny real checkpoints with random weights: what they say is noise, how they are
asked is not."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

import tiny_llms
from conformance import Tiny, check_llm, other_weights, request
from ctrlsynth.errors import ModelError
from ctrlsynth.models.base import Request
from ctrlsynth.models.llms.choice import Choice
from ctrlsynth.models.llms.sampling import Sampling
from ctrlsynth.models.llms.transformers import TransformersLLM
from ctrlsynth.models.registry import load
from helpers import assert_refused

TEXTS = (
    "red dog",
    "a blue car under a big tree near the small house",
    "boat",
    "green chair on a red ball",
    "bird",
    "a cat and a dog",
)
SYNTHCLIP: dict[str, Any] = {
    "temperature": 0.7,
    "top_p": 0.95,
    "presence_penalty": 1.0,
    "frequency_penalty": 1.0,
}
"""SynthCLIP's sampling (its section 3.2, appendix A)."""


def requests(tokens: int = 24) -> list[Request]:
    return [replace(request(text, seed=n), max_tokens=tokens) for n, text in enumerate(TEXTS)]


@pytest.fixture(scope="module")
def qwen2(tiny: Tiny) -> TransformersLLM:
    return TransformersLLM(str(tiny("qwen2")), dtype="float32", device="cpu")


def slow_greedy(model: TransformersLLM, request: Request) -> list[int]:
    """The definition: one row, no padding, no cache, the likeliest token again and again."""
    network, tokenizer = model.loaded()
    ids = model.tokens(request)
    start = len(ids)
    with torch.inference_mode():
        while len(ids) - start < request.max_tokens and (
            len(ids) == start or ids[-1] != tokenizer.eos_token_id
        ):
            ids.append(int(network(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[start:]


@pytest.mark.parametrize(
    ("name", "options"),
    [("qwen2", {"dtype": "float32"}), ("mistral", {"dtype": "float32"}), ("mistral", SYNTHCLIP)],
)
def test_conformance_bit_equal_on_a_cpu(
    tiny: Tiny, tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    model = TransformersLLM(str(tiny(name)), device="cpu", **options)
    other = other_weights(tiny(name), tmp_path / "other")
    check_llm(lambda: model, lambda: TransformersLLM(str(other), device="cpu", **options))


def test_greedy_is_the_likeliest_token_again_and_again(qwen2: TransformersLLM) -> None:
    """Although the checkpoint's generation_config.json asks for sampling and a penalty, as Qwen2's does."""
    told = json.loads((qwen2.found.folder / "generation_config.json").read_text())
    assert (told["do_sample"], told["repetition_penalty"] > 1) == (True, True)
    for asked, reply in zip(requests(), qwen2.generate(requests()), strict=True):
        ids = slow_greedy(qwen2, asked)
        text = qwen2.loaded()[1].decode(ids, skip_special_tokens=True).strip()
        wanted = (text, len(qwen2.tokens(asked)), len(ids))
        assert (reply.text, reply.prompt_tokens, reply.completion_tokens) == wanted


@pytest.mark.parametrize("options", [{}, SYNTHCLIP, {"repetition_penalty": 1.3}])
def test_a_reply_does_not_depend_on_the_batch(tiny: Tiny, options: dict[str, Any]) -> None:
    asked = requests() + requests()[::-1]
    whole, single, five = (
        TransformersLLM(str(tiny("qwen2")), device="cpu", batch_size=size, **options) for size in (16, 1, 5)
    )
    assert whole.generate(asked) == single.generate(asked) == five.generate(asked[::-1])[::-1]


def test_sampling_hangs_on_the_seed(tiny: Tiny) -> None:
    model = TransformersLLM(str(tiny("qwen2")), device="cpu", **SYNTHCLIP)
    one, two, again = model.generate([replace(requests()[0], seed=s) for s in (1, 2, 1)])
    assert one == again != two


def test_each_row_keeps_its_own_limit(qwen2: TransformersLLM) -> None:
    short, long = qwen2.generate([replace(requests()[0], max_tokens=3), requests()[0]])
    assert [(r.completion_tokens, r.finish) for r in (short, long)] == [(3, "length"), (24, "length")]
    assert short.text == qwen2.loaded()[1].decode(slow_greedy(qwen2, requests()[0])[:3]).strip()
    capped = TransformersLLM(str(qwen2.found.folder), max_tokens=5, dtype="float32", device="cpu")
    assert {r.completion_tokens for r in capped.generate(requests())} == {5}


def test_a_reply_ends_where_the_checkpoint_says(qwen2: TransformersLLM, tmp_path: Path) -> None:
    ids = slow_greedy(qwen2, requests()[0])
    end = next(token for n, token in enumerate(ids) if n >= 4 and token not in ids[:n])
    shutil.copytree(qwen2.found.folder, tmp_path / "ends")
    told = json.loads((tmp_path / "ends/generation_config.json").read_text())
    (tmp_path / "ends/generation_config.json").write_text(json.dumps(told | {"eos_token_id": [1, end]}))
    first, *rest = TransformersLLM(str(tmp_path / "ends"), dtype="float32", device="cpu").generate(requests())
    assert (first.finish, first.completion_tokens) == ("stop", ids.index(end) + 1)
    assert [r.prompt_tokens for r in rest] == [r.prompt_tokens for r in qwen2.generate(requests())[1:]]


def test_a_prompt_too_long_is_its_row_s_error(qwen2: TransformersLLM) -> None:
    first, wrong, last = qwen2.generate([requests()[0], Request("word " * 600, max_tokens=8), requests()[1]])
    assert (wrong.error, wrong.text, [first, last]) == ("prompt_too_long", "", qwen2.generate(requests()[:2]))
    tight = TransformersLLM(
        str(qwen2.found.folder), context=(first.prompt_tokens or 0) + 4, dtype="float32", device="cpu"
    )
    assert tight.generate([requests()[0]])[0].completion_tokens == 4  # what is left of the context


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("qwen2", "<|im_start|>user\nSay hello.<|im_end|>\n<|im_start|>assistant\n"),
        ("mistral", "<s>[INST] Say hello. [/INST]"),
    ],
)
def test_the_prompt_is_the_checkpoint_s_template(tiny: Tiny, name: str, wanted: str) -> None:
    assert TransformersLLM(str(tiny(name))).prompt(Request("Say hello.")) == wanted


def test_adapters_change_digest_and_reply(tiny: Tiny, tmp_path: Path, qwen2: TransformersLLM) -> None:
    base = tiny("qwen2")
    models = [qwen2]
    for seed in (1, 2):
        models.append(
            TransformersLLM(
                str(base),
                adapters=[str(tiny_llms.llm_lora(base, tmp_path / f"{seed}", seed))],
                dtype="float32",
                device="cpu",
            )
        )
    assert len({model.digest for model in models}) == 3
    assert len({model.generate(requests()[:1])[0].text for model in models}) == 3


def test_digest_is_of_what_shapes_a_reply(tiny: Tiny) -> None:
    def digest(**options: Any) -> str:
        return str(load({"transformers": str(tiny("qwen2")), **options}, "llm").digest)

    plain = digest()
    assert digest(batch_size=3) == plain
    shaping: list[dict[str, Any]] = [
        {"temperature": 0.7}, {"top_p": 0.5}, {"presence_penalty": 1.0}, {"max_tokens": 9}, {"context": 99},
        {"dtype": "bfloat16"},
    ]  # fmt: skip
    assert len({digest(**o) for o in shaping} | {plain}) == len(shaping) + 1
    assert (
        TransformersLLM(str(tiny("qwen2"))).content_digest()
        == TransformersLLM(str(tiny("qwen2")), temperature=1.0).content_digest()
    )


def test_memory_that_runs_out_is_told_and_the_model_stays(
    qwen2: TransformersLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = qwen2.generate(requests()[:1])
    full = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    monkeypatch.setattr(qwen2.loaded()[0], "generate", Mock(side_effect=full))
    with pytest.raises(ModelError) as caught:
        qwen2.generate(requests())
    assert caught.value.reason == "out_of_memory"
    qwen2.close()
    assert qwen2.generate(requests()[:1]) == before


def test_what_is_no_chat_model_is_told_before_it_runs(tiny: Tiny, tmp_path: Path) -> None:
    base = TransformersLLM(str(tiny_llms.qwen2(tmp_path / "base", template=None)), device="cpu")
    assert_refused(base.check, "has no chat template")
    vicuna = "USER: {{ messages[0]['content'] }} ASSISTANT:"
    told = TransformersLLM(str(tmp_path / "base"), device="cpu", chat_template=vicuna)
    told.check()
    assert told.prompt(Request("Say hello.")) == "USER: Say hello. ASSISTANT:"
    assert told.digest != base.digest
    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes.txt").write_text("no model")
    assert_refused(TransformersLLM(str(tmp_path / "other")).check, r"no config.json")
    TransformersLLM(str(tiny("qwen2")), device="cpu").check()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"temprature": 1.0}, "did you mean 'temperature'"), ({"batch_size": 0}, "batch_size"),
    ({"context": "long"}, "context"),
     ({"top_p": 2}, "top_p"), ({"chat_template": "vicuna"}, "chat_template: Jinja text"), ({"dtype": "float23"}, "dtype: auto, float32"), ({"top_k": 5},
     "unknown option 'top_k'")],
)  # fmt: skip
def test_options_are_checked(tiny: Tiny, options: dict[str, Any], message: str) -> None:
    assert_refused(load, message, {"transformers": str(tiny("qwen2")), **options}, "llm")


def slow_penalties(s: Sampling, prompt: list[int], made: list[int], logits: list[float]) -> list[float]:
    """vLLM's documented meaning, token by token."""
    out = []
    for token, value in enumerate(logits):
        if token in prompt or token in made:
            value = value / s.repetition_penalty if value > 0 else value * s.repetition_penalty
        out.append(value - s.frequency_penalty * made.count(token) - s.presence_penalty * (token in made))
    return out


def test_penalties_are_as_defined_and_padding_counts_for_nothing() -> None:
    s = Sampling(presence_penalty=0.7, frequency_penalty=0.3, repetition_penalty=1.4)
    torch.manual_seed(0)
    ids = torch.tensor([[3, 3, 5], [4, 4, 2]])  # 4 pads the second prompt
    choice = Choice(s, [0, 0], torch.tensor([[1, 1, 1], [0, 0, 1]]))
    for step in range(4):
        logits = torch.randn(2, 8)
        got = choice(ids, logits)
        for row, prompt in enumerate(([3, 3, 5], [2])):
            wanted = slow_penalties(s, prompt, ids[row, 3:].tolist(), logits[row].tolist())
            assert got[row].tolist() == pytest.approx(wanted, abs=1e-6)
        ids = torch.cat([ids, torch.tensor([[step % 3], [5]])], 1)


def test_chance_draws_from_the_nucleus() -> None:
    """Frequencies over many seeds against the probabilities: temperature and top_p by their definition, in
    plain Python."""
    logits = torch.tensor([2.0, 1.0, 0.5, -1.0, 1.5, -3.0])
    s = Sampling(temperature=0.8, top_p=0.85)
    exact = torch.softmax(logits / 0.8, 0).tolist()
    kept: dict[int, float] = {}
    for token in sorted(range(6), key=lambda t: -exact[t]):
        if sum(kept.values()) < 0.85:
            kept[token] = exact[token]
    number = 6000
    choice = Choice(s, range(number), torch.ones(number, 1))
    drawn = choice(torch.zeros(number, 1, dtype=torch.long), logits.repeat(number, 1)).argmax(1)
    for token, count in enumerate(drawn.bincount(minlength=6).tolist()):
        wanted = kept.get(token, 0.0) / sum(kept.values())
        spread = (wanted * (1 - wanted) / number) ** 0.5
        assert count / number == pytest.approx(wanted, abs=4 * spread + 1e-9)

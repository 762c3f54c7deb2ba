"""One sample's story: complete, in order, for every id, and safe to print whatever the data hold."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctrlsynth.api.run import Run, run
from ctrlsynth.cli.output import cells, clean, wrap
from ctrlsynth.cli.show import as_text
from ctrlsynth.errors import UserError
from ctrlsynth.report.explain import as_dict, explain, first_kept
from helpers import assert_refused, recipe
from report_fixture import make_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("explain") / "demo", rows=20)


def one_line(text: str) -> str:
    return " ".join(text.split())


def test_the_whole_story_in_order(finished: Run) -> None:
    """Row 2: two edits, two candidates, both judged references."""
    text = one_line(as_text(finished, "00000:photo2.jpg", 120))
    told = [
        "source (1a, 1b), 00000:photo2.jpg", "caption a red bicycle leans against a wall, photograph 2", "photo2.jpg", "96 x 72 pixels",
        "licence: CC0",
        "tags (2a), tag by imagenet", "bicycle (0.90), wall (0.60), watermark (0.20)", "red bicycle", "bicycle on wall",
        "text (3a, 2b), write.0.1 by realizer", 'edit 1 remove {"objects": ["watermark"]} objects: ' 'watermark removed',
        'edit 2 replace {"attributes": {"red": "blue"}} attributes: red bicycle -> blue bicycle', "template describe",
        "instruction Describe: bicycle, wall. Only the caption.", "text A blue bicycle on the wall, number 2.", "LLM tokens " "60 in, 12 out",
        "CLIP tokens 14 of 77", "0: recall 0.50, not_chosen: There is a bicycle", "1: recall 0.75, chosen", "the highest recall",
        "judge of the text", "recall 0.75 (3 of 4)", "found bicycle, wall, blue bicycle", "missed bicycle on wall",
        "kept: recall 0.75 reaches p_f = 0.2 (matcher substring)",
        "image (3b, 2c), paint.0 by scenes", "prompt a real photo. A blue bicycle", "style real", "drawn bicycle",
        "64 x 64 pixels", "90 of 77; cut at 77",
        "tags (2a), tag by imagenet", "objects bicycle, sky", "judge of the image", "against the text's " "phrases; " "this one decides",
        "recall 0.50 (1 of 2)",
        "against the original's tags as edited", "recall 0.33 (1 of 3)", "kept: recall 0.50 reaches p_f = 0.2",
        "verdict SP1 kept: 00000:photo2.jpg/tag/write.0.1 SP3 kept: 00000:photo2.jpg/tag/write.0.1/paint.0 " "SP4",
    ]  # fmt: skip
    for part in told:
        _, found, text = text.partition(part)
        assert found, part


@pytest.mark.parametrize(
    ("row_id", "text"),
    [
        ("00000:photo5.jpg", "rejected, low_recall: recall 0.00 is below p_f = 0.2"),
        ("00001:photo8.jpg", "rejected, no_reference: there was nothing to compare it with"),
        ("00000:photo4.jpg/tag/write.0", "failed: empty_reply"),
        ("00001:photo9.jpg", "failed: truncated_image"),
        ("00000:photo6.jpg", "SP3 failed, no_output (paint)"),
        ("00001:photo13.jpg", "came back watermark (removed by an edit)"),
        ("00000:photo0.jpg", "weights dog x 1.4"),
        ("00000:photo0.jpg", "not drawn grass"),
    ],
)
def test_rejections_and_faults_give_their_reason(finished: Run, row_id: str, text: str) -> None:
    assert text in one_line(as_text(finished, row_id))


def test_a_story_covers_what_a_row_was_made_from_and_what_was_made_from_it(finished: Run) -> None:
    def told(row_id: str) -> list[str]:
        return [s.id for s in explain(finished, row_id).sections]

    source, text = "00000:photo2.jpg", "00000:photo2.jpg/tag/write.0.1"
    image = f"{text}/paint.0"
    ids = [source, f"{source}/tag", text, f"{text}/judge", image, f"{image}/tag", f"{image}/tag/judge"]
    assert told(text) == told(f"{image}/tag/judge") == ids
    assert {f"{source}/paint.0", f"{source}/paint.0/tag/judge", *ids} <= set(told(source))
    assert told(f"{source}/tag/write.0") == [source, f"{source}/tag", f"{source}/tag/write.0"]
    assert not any("photo1" in i.replace("photo1.jpg", "") for i in told("00000:photo1.jpg"))


def test_every_row_of_the_run_can_be_explained(finished: Run) -> None:
    for step in finished.steps:
        for row in finished.rows(step.folder, ["id"]):
            story = as_dict(finished, row["id"])
            assert row["id"] in [s["id"] for s in story["sections"]]
            json.dumps(story, allow_nan=False)


def test_machines_get_the_stored_rows(finished: Run) -> None:
    story = as_dict(finished, "00000:photo2.jpg")
    stored = {s.folder: {r["id"]: r for r in finished.rows(s.folder)} for s in finished.steps}
    for section in story["sections"]:
        row, shown = stored[section["stage"]][section["id"]], section["row"]
        assert (shown["key"], shown.get("text")) == (row["key"], row.get("text"))
        assert "image" not in shown
        assert (finished.root / section["stage"] / section["part"]).exists()


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ("hoto12.jpg", "'00001:photo12.jpg'"),
        ("00000:photo2.jpg/tagg", "'00000:photo2.jpg/tag'"),
        ("00000:phto3.jpg", "'00000:photo3.jpg'"),
        ("zzzz", "the first ones are '00000:photo0.jpg'"),
        ("\x1b[31mred", r"'\x1b[31mred'"),
    ],
)
def test_an_unknown_id_names_the_nearest(finished: Run, asked: str, named: str) -> None:
    with pytest.raises(UserError) as fault:
        explain(finished, asked)
    assert named in str(fault.value)
    assert "\x1b" not in str(fault.value)


def test_a_source_key_will_do_where_it_is_unique(finished: Run, tmp_path: Path) -> None:
    assert as_text(finished, "photo12.jpg") == as_text(finished, "00001:photo12.jpg")
    assert explain(finished, "photo2.jpg/tag").asked == "00000:photo2.jpg/tag"
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text('{"key": "cat", "caption": "a cat"}\n')
    given = {"text": ["a.jsonl", "b.jsonl"], "key_column": "key"}
    both = run(recipe(tmp_path, source=given), tmp_path / "run", base=tmp_path)
    assert_refused(lambda: explain(both, "cat"), r"no row 'cat'; did you mean '\S+:cat' or '\S+:cat'\?")


def test_hostile_captions_drive_no_terminal(tmp_path: Path) -> None:
    caption = "\x1b]0;owned\x07 \u202egnirts\u2028 [bold red]x[/bold red] " + "語" * 200
    (tmp_path / "captions.jsonl").write_text(json.dumps({"caption": caption, "key": "a"}) + "\n")
    made = run(recipe(tmp_path, judge=None), tmp_path / "out", base=tmp_path)
    text = as_text(made, next(made.rows("read"))["id"], 80)
    assert "\\u202egnirts\\u2028 [bold red]x[/bold red]" in one_line(text)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e]", text)
    assert text.count("語") >= 200
    assert all(cells(line) <= 80 for line in text.splitlines())


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=300), st.integers(8, 60))
def test_wrapped_lines_are_narrow_clean_and_whole(text: str, width: int) -> None:
    lines = wrap(text, width)
    assert all(cells(line) <= max(width, 8) for line in lines)
    assert not any(re.search("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", line) for line in lines)
    kept = "".join("".join(lines).split())
    assert kept == "".join("".join(clean(line) for line in text.replace("\r\n", "\n").split("\n")).split())


def test_the_first_kept_sample_of_the_longest_path(finished: Run) -> None:
    chosen = first_kept(finished)
    kept = [r["parent"].rpartition("/")[0] for r in finished.rows("judge-image") if r["verdict"] == "kept"]
    texts = {r["parent"] for r in finished.rows("judge-text") if r["verdict"] == "kept"}
    assert chosen == next(i for i in kept if i.rpartition("/")[0] in texts)


def test_a_run_by_the_real_pipeline_shows_its_stored_scores(tmp_path: Path) -> None:
    """Of several candidates, the chosen one shows the judge's recall."""
    edits = {"edits": [{"replace": {"objects": {"dog": "wolf"}}}]}
    made = run(
        recipe(tmp_path, 2, judge={"candidates": 3}, text_policy=edits), tmp_path / "out", base=tmp_path
    )
    for row in made.rows("judge-text"):
        written = made.find("write", row["parent"]) or {}
        chosen = f"{written['candidate']}: recall {row['edited']['recall']:.2f}, chosen"
        assert chosen in one_line(as_text(made, row["parent"], 140))
    assert "dog -> wolf" in as_text(made, next(made.rows("read", ["id"]))["id"], 140)

"""The data card of an export: contents, origin, what was left out and why, licences."""

import html
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import yaml

from ..models.catalogue import Entry, entries
from ..recipe.schema import dump_recipe
from ..runs.reader import RunReader

_CARD = """\
{{ front }}
# {{ recipe.name }}

{{ total }} image-text pairs made by ctrlsynth {{ version }} from {{ source }}.
Synthetic parts are marked in every sample's provenance.

## How to load it

{{ load }}

## What is in it

| pairs | image | text | number |
|---|---|---|--:|
{% for kind, image, text, number in kinds -%}
| {{ kind }} | {{ image }} | {{ text }} | {{ number }} |
{% endfor %}
Mix: `{{ use }}`{% if notes %}; {{ notes | join('; ') }}{% endif %}.
{% if lost %}
Chosen but not written: {{ lost }}.
{% endif %}{% if converted %}
{{ converted }} original image{{ 's' if converted != 1 }} in a format that trainers do not open
(gif, bmp, tiff, ...) stored as PNG; all others are byte for byte the source's.
{% endif %}
## How many came through

Of every pair that the run made, by what the judge said:

| pairs | made | {% for r in reasons %}{{ r }} | {% endfor %}yield |
|---|--:|{% for r in reasons %}--:|{% endfor %}--:|
{% for kind, made, cells, share in yields -%}
| {{ kind }} | {{ made }} | {% for c in cells %}{{ c }} | {% endfor %}{{ share }} |
{% endfor %}
Stage by stage (rows that failed or were dropped are not in later stages):

| stage | paths | rows | ok | dropped | failed |
|---|---|--:|--:|---|---|
{% for row in ledger -%}
| {{ row.folder }} | {{ row.paths }} | {{ row.rows }} | {{ row.ok }} | {{ row.dropped }} | {{ row.failed }} |
{% endfor %}{% if unfinished %}
The run was not finished when this was written: {{ unfinished }}.
{% endif %}
## Source

{{ source }}{% if limit %} (the first {{ limit }} rows){% endif %}. Licence: {{ licence }}.
{% if licences %}
What the source says of the original images in this data set: {{ licences }}.
{% endif %}
## Models

| stage | model | licence |
|---|---|---|
{% for stage, model, known in models -%}
| {{ stage }} | {{ model }} | {{ known }} |
{% endfor %}
## Policies

Everything that decided about these pairs, as resolved for the run (seed {{ recipe.seed }}):

{{ fence }}yaml
{{ policies }}{{ fence }}
"""

_KINDS = {
    "cap": ("original", "synthetic"),
    "img": ("synthetic", "original"),
    "capimg": ("synthetic", "synthetic"),
    "original": ("original", "original"),
}


@dataclass
class Summary:
    """What an export wrote and left out.

    pairs    (kind, `kept` or the judge's reason) -> pairs that the run made     written  kind -> pairs in the
             data set
    lost     reason -> pairs that were chosen but could not be written           notes    sentences for the
             card
    licences what the source's licence column says of an original image that was written -> pairs"""

    format: str
    use: str
    pairs: Counter[tuple[str, str]] = field(default_factory=Counter)
    written: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    converted: int = 0
    licences: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        total = self.written.total()
        kinds, lost = (
            ", ".join(f"{n:,} {name}" for name, n in sorted(counts.items()))
            for counts in (self.written, self.lost)
        )
        lost = f"; not written: {lost}" if lost else ""
        return f"{total:,} pairs ({kinds}) as {self.format}{lost}; --train-num-samples {total}"


def write_card(run: RunReader, summary: Summary, load: str, path: Path) -> None:
    """Writes README.md: counts, ledger, models, policies, licences, how to load."""
    ledger = run.ledger()
    recipe, embedded = run.recipe, entries()
    kept = {"paths", "variants", "text_policy", "image_policy", "judge", "mix"}
    known = {k: v for k, v in dump_recipe(recipe).items() if k in kept}
    wanted = max((r.parts_wanted for r in ledger), default=0)
    policies = yaml.safe_dump(_bare(known), sort_keys=False, allow_unicode=True, width=120)
    values = {
        "front": _front(summary.format),
        "recipe": recipe,
        "version": _cell(run.plan.get("version", "unknown")),
        "source": _cell(
            re.sub(r"(?:/[^\s/,;]+)+/([^\s/,;]+)", r"\1", str(run.plan.get("source", "")))
        ),  # names, not where they lie on this disk
        "limit": run.plan.get("limit"),
        "licence": _cell(recipe.source.licence or "not given in the recipe (source.licence)"),
        "total": f"{summary.written.total():,}",
        "load": load,
        "kinds": [(k, *_KINDS[k], f"{summary.written[k]:,}") for k in _KINDS if summary.written[k]],
        "use": summary.use,
        "notes": [_cell(n) for n in summary.notes],
        "lost": listed(summary.lost),
        "licences": _cell("; ".join(f"{n:,} {name}" for name, n in summary.licences.most_common())),
        "converted": summary.converted,
        **_yields(summary.pairs),
        "ledger": [
            {
                "folder": r.folder,
                "paths": _cell(", ".join(r.paths) or "all"),
                "rows": f"{r.rows:,}",
                "ok": f"{r.ok:,}",
            }
            | {"dropped": listed(r.dropped) or "0", "failed": listed(r.failed) or "0"}
            for r in ledger
        ],
        "unfinished": ", ".join(
            f"{r.folder} has {r.parts} of {wanted} parts" for r in ledger if r.parts < wanted
        ),
        "models": [
            (s["folder"], _cell(m), _licence(str(m), embedded))
            for s in run.plan["steps"]
            if (m := (s.get("settings") or {}).get("model"))
        ],
        "policies": policies,
        "fence": "`"
        * max(
            3, 1 + max((len(ticks) for ticks in re.findall("`+", policies)), default=0)
        ),  # no text of theirs closes it
    }
    template = jinja2.Template(_CARD, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    path.write_text(template.render(values), encoding="utf-8")


def _front(form: str) -> str:
    """The YAML head that Hugging Face reads."""
    # Only for parquet: the loader of webdataset there refuses shards that mix jpg and png.
    config = 'configs:\n- config_name: default\n  data_files: "*.parquet"\n' if form == "parquet" else ""
    return (
        f"---\ntask_categories:\n- zero-shot-image-classification\ntags:\n- synthetic\n- "
        f"ctrlsynth\n{config}---"
    )


def _yields(pairs: Mapping[tuple[str, str], int]) -> dict[str, Any]:
    kinds = [k for k in _KINDS if any(kind == k for kind, _ in pairs)]
    reasons = ["kept", *sorted({r for _, r in pairs} - {"kept"})]
    rows = []
    for kind in kinds:
        made = sum(n for (k, _), n in pairs.items() if k == kind)
        share = f"{pairs.get((kind, 'kept'), 0) / made:.1%}" if made else "0"
        rows.append((kind, f"{made:,}", [f"{pairs.get((kind, r), 0):,}" for r in reasons], share))
    return {"reasons": reasons, "yields": rows}


def listed(counts: Mapping[str, int]) -> str:
    """Returns counts by reason for a sentence, the largest first."""
    return ", ".join(f"{n:,} {_cell(r)}" for r, n in sorted(counts.items(), key=lambda i: (-i[1], i[0])))


def _licence(model: str, embedded: list[Entry]) -> str:
    """Licences of the embedded models that a model's id names; the user must look up others."""
    named = set(re.split(r"[\s(),:+]+", model))
    found = [e for e in embedded if e.name in named]
    return (
        "; ".join(f"{e.name}: {e.licence}" for e in found)
        or "not known to ctrlsynth: see where the model comes from"
    )


def _cell(text: object) -> str:
    """Escapes text of data or recipe for Markdown: one line without columns, HTML, links or code."""
    return re.sub(r"([\\`|\[\]])", r"\\\1", html.escape(" ".join(str(text).split()), quote=False))


def _bare(value: Any) -> Any:
    """Plain data for YAML, without unset values."""
    if isinstance(value, Mapping):
        return {str(k): _bare(v) for k, v in value.items() if v is not None and v != {} and v != []}
    return [_bare(v) for v in value] if isinstance(value, (list, tuple)) else value

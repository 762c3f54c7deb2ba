"""Plots of a run: words (CtrlSynth, figure 7), recall with p_f, and the sweep. Same run, same bytes; no
pyplot, no global state."""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..concepts.coverage import Counted
from ..errors import UserError
from ..runs.reader import Parts, RunReader
from ..stages.boxes import box_of
from .sweep import Sweep

MOST_WORDS = 100
"""Texts with this many words or more share the last bin."""
RECALL_BINS = 20


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts per bin, their total, and the mean (None if the total is 0)."""

    name: str
    counts: tuple[int, ...]
    total: int
    mean: float | None


def word_histograms(run: RunReader) -> list[Histogram]:
    """Counts words per text (split at white space): of the original captions, and of the synthetic texts of
    every folder. Bin n: n words."""
    parts = Parts(run)
    texts = [s.folder for s in run.steps if box_of(s).makes == "text"]
    out = [_histogram("original captions", _words(parts, "read", "caption"), MOST_WORDS + 1)]
    out += [_histogram(f"synthetic texts ({f})", _words(parts, f, "text"), MOST_WORDS + 1) for f in texts]
    return [h for h in out if h.total]


def recall_histograms(run: RunReader) -> list[Histogram]:
    """Counts the recall of every judge's table by the reference that decides, in 20 bins of 0.05; rows
    without a reference are left out."""
    parts, judges = Parts(run), [s for s in run.steps if box_of(s).judges]
    columns = {s.folder: box_of(s).decides(run.recipe) for s in judges}
    out = [_histogram(f, _recalls(parts, f, column), RECALL_BINS) for f, column in columns.items()]
    return [h for h in out if h.total]


def _histogram(name: str, batches: Iterable[tuple[Any, Any]], bins: int) -> Histogram:
    """Counts batches of (bins, values)."""
    counts, total, added = np.zeros(bins, np.int64), 0, 0.0
    for places, values in batches:
        counts += np.bincount(places, minlength=bins)
        total += len(values)
        added += float(values.sum())
    return Histogram(name, tuple(counts.tolist()), total, added / total if total else None)


def _words(parts: Parts, folder: str, column: str) -> Iterator[tuple[Any, Any]]:
    for batch in parts.batches(folder, ["status", column], rows=8192):
        texts = pc.utf8_trim_whitespace(batch.filter(pc.equal(batch["status"], "ok"))[column].drop_null())
        words = pc.utf8_split_whitespace(texts.filter(pc.not_equal(texts, "")))
        lengths = pc.list_value_length(words).to_numpy(zero_copy_only=False)
        yield np.minimum(lengths, MOST_WORDS), lengths


def _recalls(parts: Parts, folder: str, column: str) -> Iterator[tuple[Any, Any]]:
    for batch in parts.batches(folder, [f"{column}.recall"]):
        recall = pc.struct_field(batch[column], "recall").drop_null().cast(pa.float64())
        values = recall.to_numpy(zero_copy_only=False)
        bins = np.floor(values * RECALL_BINS + 1e-5).astype(np.int64)
        yield np.clip(bins, 0, RECALL_BINS - 1), values


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours of ink, faint lines, and series (Okabe and Ito's, which colour-blind readers can
    distinguish)."""

    ink: str
    faint: str
    series: tuple[str, ...]


LIGHT = Theme("#2b303b", "#d5d9e0", ("#8a93a3", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b"))
DARK = Theme("#d9dee8", "#3b4252", ("#8d97aa", "#56b4e9", "#f0904a", "#3cc9a0", "#e29bc4", "#f0e442"))
_DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)))


def words_figure(histograms: Sequence[Histogram], theme: Theme = LIGHT) -> Any:
    """Draws the share of texts by their number of words, originals beside synthetic ones."""
    figure, (axes,) = panels(1, theme)
    last = max((i for h in histograms for i, c in enumerate(h.counts) if c), default=0)
    width = 1 if last < 16 else 2 if last < 40 else 4
    starts = np.arange(0, last + 1, width)
    edges = np.append(starts, starts[-1] + width) - 0.5
    for number, h in enumerate(histograms):
        share = np.add.reduceat(h.counts[: last + 1], starts) / max(h.total, 1) * 100
        colour = _colour(theme, number)
        axes.stairs(share, edges, fill=True, alpha=0.28, color=colour)
        axes.stairs(share, edges, color=colour, lw=1.4, ls=dash(number), label=f"{h.name}, mean {h.mean:.1f}")
    more = f" (last bin: {MOST_WORDS} and more)" if last == MOST_WORDS else ""
    axes.set(xlabel="words" + more, ylabel="% of texts")
    legend(axes, theme)
    return figure


def recall_figure(histograms: Sequence[Histogram], threshold: float, theme: Theme = LIGHT) -> Any:
    """Draws histograms of recall, one step line per judge, with p_f marked."""
    figure, (axes,) = panels(1, theme)
    edges = np.linspace(0, 1, RECALL_BINS + 1)
    for number, h in enumerate(histograms):
        share = np.asarray(h.counts) / max(h.total, 1) * 100
        colour = _colour(theme, number + 1)
        axes.stairs(share, edges, fill=True, alpha=0.18, color=colour)
        axes.stairs(share, edges, color=colour, lw=1.6, ls=dash(number), label=f"{h.name}, mean {h.mean:.2f}")
    _mark(axes, threshold, theme)
    axes.set(xlabel="recall", ylabel="% of judged rows", xlim=(-0.02, 1.02))
    legend(axes, theme)
    return figure


def sweep_figure(found: Sweep, theme: Theme = LIGHT) -> Any:
    """Draws the share kept by p_f (left) and the mean recall of what is kept (right). Thin lines: a gate left
    rows unpainted."""
    figure, (left, right) = panels(2, theme)
    for number, (kind, name) in enumerate(found.names(), 1):
        series = found.series(kind, name)
        style: dict[str, Any] = {"color": _colour(theme, number), "ls": dash(number - 1)}
        label = f"pairs of {name}" if kind == "pair" else name
        whole = [r for r in series if r.complete]
        part = series[: len(series) - len(whole) + 1] if len(whole) < len(series) else []
        for rows, look in ((part, {"lw": 0.7, "alpha": 0.6}), (whole, {"lw": 1.8, "label": label})):
            p_f = [r.threshold for r in rows]
            recalls = [np.nan if r.mean_recall is None else r.mean_recall for r in rows]
            left.plot(p_f, [r.share * 100 for r in rows], **look, **style)
            right.plot(p_f, recalls, **look, **style)
    for axes in (left, right):
        _mark(axes, found.threshold, theme)
        axes.set(xlabel="threshold p_f", xlim=(-0.02, 1.02))
    left.set(ylabel="% kept", ylim=(-3, 103))
    right.set(ylabel="mean recall of what is kept", ylim=(-0.03, 1.03))
    legend(left, theme)
    return figure


def write_figure(figure: Any, path: Path) -> None:
    """Writes .svg or .png; the same figure and matplotlib give the same bytes."""
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("svg", "png"):
        raise UserError(f"{path}: a plot is written as .svg or .png")
    import matplotlib

    out = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "ctrlsynth", "svg.fonttype": "none"}):
        if kind == "svg":
            figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        else:
            figure.savefig(out, format="png", dpi=150, facecolor="white", metadata={"Software": None})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(out.getvalue())


def write_both(draw: Callable[[Theme], Any], folder: Path, name: str) -> None:
    """Writes `name-light.svg` and `name-dark.svg`."""
    write_figure(draw(LIGHT), folder / f"{name}-light.svg")
    write_figure(draw(DARK), folder / f"{name}-dark.svg")


def panels(number: int, theme: Theme) -> tuple[Any, list[Any]]:
    """Returns a figure of this many plots side by side, and its axes."""
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=(6.0 if number == 1 else 10.0, 3.6), layout="constrained")
    axes = list(figure.subplots(1, number, squeeze=False)[0])
    for one in axes:
        one.set(facecolor="none", axisbelow=True)
        one.grid(True, color=theme.faint, lw=0.6)
        one.tick_params(colors=theme.ink, labelsize=9, length=0)
        one.spines[["left", "right", "top"]].set_visible(False)
        one.spines["bottom"].set_color(theme.ink)
        one.xaxis.label.set_color(theme.ink)
        one.yaxis.label.set_color(theme.ink)
    return figure, axes


def _colour(theme: Theme, number: int) -> str:
    return theme.series[number % len(theme.series)]


def dash(number: int) -> Any:
    """Returns the line style of the n-th line of the same colour or meaning."""
    return _DASHES[number % len(_DASHES)]


def _mark(axes: Any, threshold: float, theme: Theme) -> None:
    axes.axvline(threshold, color=theme.ink, lw=1, ls=(0, (2, 2)), zorder=3)
    axes.annotate(
        f"p_f = {threshold:g}", (threshold, 1.0), xycoords=("data", "axes fraction"), xytext=(0, 3),
        textcoords="offset points",
        ha="center", va="bottom", fontsize=8.5, color=theme.ink,
    )  # fmt: skip


def legend(axes: Any, theme: Theme) -> None:
    """Puts the labels of what `axes` shows above the figure."""
    handles, labels = axes.get_legend_handles_labels()
    axes.figure.legend(
        handles,
        labels,
        loc="outside upper left",
        ncols=2 if len(axes.figure.axes) == 1 else 4,
        frameon=False,
        fontsize=8.5,
        labelcolor=theme.ink,
    )


def head_tail_figure(sets: Sequence[Counted]) -> Any:
    """Draws counts by rank, head to tail, both logarithmic (left), and the share of all matches that the
    rarest entries hold (right)."""
    figure, (left, right) = panels(2, LIGHT)
    for number, one in enumerate(sets, 1):
        ordered = np.sort(one.counts)[::-1]
        seen = ordered[ordered > 0]
        if len(seen):
            colour = _colour(LIGHT, number)
            ranks = np.unique(np.geomspace(1, len(seen), 400).astype(int))
            label = f"{one.name}, {one.texts:,} texts, {len(seen):,} entries seen"
            left.loglog(ranks, seen[ranks - 1], color=colour, lw=1.6, label=label)
            share = np.cumsum(ordered[::-1]) / ordered.sum() * 100
            points = np.unique(np.linspace(0, len(share) - 1, 600).astype(int))
            right.plot((points + 1) / len(share) * 100, share[points], color=colour, lw=1.6)
    left.set(xlabel="entry, by rank", ylabel="texts that hold it")
    right.set(
        xlabel="% of the bank's entries, the rarest first",
        ylabel="% of all matches",
        xlim=(-2, 102),
        ylim=(-3, 103),
    )
    legend(left, LIGHT)
    return figure

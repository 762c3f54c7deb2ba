"""The concept bank (METHODS, section 2): entries, where each comes from, and the files they are kept in.
MetaCLIP's kind of bank:

    list       entries of the user's own files, in their order
    numbers    0 .. 99
    wordnet    the names of all synsets: the first lemma in lower case, cut at its first full stop as
               MetaCLIP's script cuts it, spaces for underscores, sorted. WordNet 3.0 gives 86,554 of them
    unigrams   words with a count of at least 100, the most frequent first
    bigrams    pairs of words with a PMI of at least 30 (`gather.pair_scores`), the highest first
    titles     page titles with at least 70 views, the most viewed first

One cap holds for all; that list is the order in which they come under it. An entry that several sources give
is listed once, at the first, and its source names them all (`wordnet+unigrams`). Equal scores go by the
alphabet, so the same files give the same bank.

A bank file is parquet with the columns of `SCHEMA`; `.txt` (an entry a line), `.csv` and `.json` (MetaCLIP's
`metadata.json`, a list of strings) are read and written too. A flagged entry stays in the file and is left
out when the bank is loaded, with every entry that is the same but for blanks."""

import csv
import io
import json
import re
import string
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ..data.captions import replace_surrogates
from ..data.streams import plain_name, text_lines
from ..errors import UserError, first_line
from ..lang import wordnet
from ..sample import draw
from ..storage.files import making, publish, remove_leftovers

CAP = 500_000
SOURCES = ("list", "numbers", "wordnet", "unigrams", "bigrams", "titles")
SCHEMA = pa.schema(
    [
        ("entry", pa.string()),
        ("source", pa.string()),
        ("score", pa.float64()),  # count, PMI or views at the first source; null where it has none
        ("flagged", pa.bool_()),  # null: nobody asked yet
        ("reason", pa.string()),
    ]
)
_COLUMNS = ("entry", "concept", "name", "word", "text", "caption")
_MARKS = frozenset(string.punctuation + " ")
_UNMATCHABLE = re.compile("[\t\r\n]|[^ ][,.;:?!`]|[,.;:?!`][^ ]")
LONGEST = 200
"""Characters of a concept at most: a word or a phrase, not a text. Nothing is written about a longer entry;
matching takes it."""
Scored = Iterable[tuple[str, float | None]]
_Row = tuple[str, str, float | None]


@dataclass(frozen=True, slots=True)
class Bank:
    """Entries to match and to write about, in their order, flagged ones left out.

    digest    of the entries and their order, 16 hex digits; results of matching carry it
    dropped   reason -> how many the file holds that are left out: `blank`, `duplicate`, `flagged`
    noted     what is kept but can hardly be meant: `edge_spaces` (needs a doubled space in the text),
              `punctuation` (nothing but marks), `very_long` (over 200 characters), `unmatchable` (a mark or a
              line break inside a word: the spacing rule keeps any text from holding it)
    """

    entries: tuple[str, ...]
    digest: str
    dropped: Mapping[str, int]
    noted: Mapping[str, int]


def digest_of(entries: Sequence[str]) -> str:
    """Returns 16 hex digits, equal for banks with the same entries in the same order."""
    found = blake2b(digest_size=8)
    for entry in entries:
        raw = entry.encode("utf-8", "surrogatepass")
        found.update(len(raw).to_bytes(4, "big") + raw)
    return found.hexdigest()


def load_bank(path: Path) -> Bank:
    """The bank in a file of any of the formats. Entries stay as they are written; blank ones, repeats and
    flagged ones are left out.

    Raises UserError for a file that holds none, that is damaged, or that is not UTF-8 (with the line).
    """
    table = read_bank(path)
    dropped: Counter[str] = Counter()
    noted: Counter[str] = Counter()
    kept: dict[str, None] = {}
    unfit = flagged_forms(table)
    for entry in table["entry"].to_pylist():
        if not entry or not entry.strip():
            dropped["blank"] += 1
        elif unfit and form(entry) in unfit:
            dropped["flagged"] += 1
        elif entry in kept:
            dropped["duplicate"] += 1
        else:
            kept[entry] = None
            noted.update(
                edge_spaces=int(entry != entry.strip(" ")),
                punctuation=int(_MARKS.issuperset(entry)),
                very_long=int(len(entry) > LONGEST),
                unmatchable=int(_UNMATCHABLE.search(entry) is not None),
            )
    if not kept:
        left_out = ", ".join(f"{count:,} {reason}" for reason, count in dropped.items())
        raise UserError(f"{path}: the bank is empty" + (f" ({left_out} left out)" if dropped else ""))
    return Bank(tuple(kept), digest_of(list(kept)), dict(dropped), {k: v for k, v in noted.items() if v})


def form(entry: str) -> str:
    """The entry with normalized blanks; entries with one form are the same concept."""
    return " ".join(entry.split())


def flagged_forms(table: pa.Table) -> set[str]:
    """The forms of all flagged entries."""
    return {form(entry or "") for entry in table.filter(table["flagged"])["entry"].to_pylist()}


def read_bank(path: Path) -> pa.Table:
    """Every row of a bank file as a table of `SCHEMA`, flagged ones too; lists get the source `list`."""
    path = Path(path)
    name = plain_name(path)
    if not path.is_file():
        raise UserError(f"{path}: no such bank file; make one with: ctrlsynth concepts build --out FILE")
    if name.endswith(".parquet"):
        return _parquet(path)
    readers = {".json": _json, ".txt": _txt, ".csv": _csv, ".tsv": _csv}
    reader = next((r for suffix, r in readers.items() if name.endswith(suffix)), None)
    if reader is None:
        raise UserError(
            f"{path}: a bank is a .parquet, .json, .txt, .csv or .tsv file (text also .gz, .bz2, .xz, .zst)"
        )
    return table_of(list(reader(path)))


def table_of(rows: Sequence[_Row]) -> pa.Table:
    """(entry, source, score) rows as a bank's table, unflagged."""
    return pa.Table.from_pylist(
        [{"entry": entry, "source": source, "score": score} for entry, source, score in rows], SCHEMA
    )


def _parquet(path: Path) -> pa.Table:
    try:
        table = pq.read_table(path)
        column = next((c for c in _COLUMNS if c in table.column_names), None)
        if column is None:
            raise UserError(
                f"{path}: no column {' or '.join(_COLUMNS)}; columns: {', '.join(table.column_names)}"
            )
        columns = {field.name: pa.nulls(table.num_rows, field.type) for field in SCHEMA}
        columns["source"] = pa.repeat("list", table.num_rows)
        columns |= {name: table[name] for name in SCHEMA.names if name in table.column_names}
        made = pa.table(columns | {"entry": table[column].cast(pa.string())}).cast(SCHEMA)
        made.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a readable bank ({first_line(error)})") from error
    return made


def _txt(path: Path) -> Iterator[_Row]:
    return ((line.rstrip("\r\n"), "list", None) for line in text_lines(path))


def _json(path: Path) -> list[_Row]:
    try:
        found = json.loads("".join(text_lines(path)))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error})") from error
    if not isinstance(found, list):
        raise UserError(f"{path}: expected a list of strings, as MetaCLIP's metadata.json")
    for number, entry in enumerate(found):
        if not isinstance(entry, str):
            raise UserError(f"{path}: item {number} is not a string: {str(entry)[:60]}")
    return [(entry, "list", None) for entry in replace_surrogates(found)]


def _csv(path: Path) -> Iterator[_Row]:
    rows = csv.DictReader(text_lines(path), delimiter="\t" if ".tsv" in path.name.lower() else ",")
    head = list(rows.fieldnames or [])
    rows.fieldnames = names = [name.strip().lower() for name in head]
    column = next((name for name in _COLUMNS if name in names), None)
    if column is None and len(head) != 1:
        raise UserError(f"{path}: no column {' or '.join(_COLUMNS)}; columns: {', '.join(head)}")
    if column is None:
        yield head[0], "list", None  # a plain list that happens to be called .csv
    for row in rows:
        entry, score = row[column or names[0]], row.get("score")
        if entry is None:  # a row that ends before its entry
            continue
        try:
            yield entry, row.get("source") or "list", float(score) if score else None
        except ValueError as error:
            raise UserError(
                f"{path}:{rows.line_num}: the score is not a number: {(score or '')[:40]!r}"
            ) from error


def write_bank(table: pa.Table, path: Path) -> None:
    """Writes a bank by its suffix: .parquet keeps everything, .txt, .json and .csv what is not flagged. Never
    over a file that is there."""
    if path.exists():
        raise UserError(f"{path}: already exists; give another name")
    remove_leftovers(path.parent)
    unfit = flagged_forms(table)
    kept = list(
        dict.fromkeys(e for e in table["entry"].to_pylist() if e and e.strip() and form(e) not in unfit)
    )
    with making(path) as made:
        if path.suffix == ".parquet":
            meta = {b"ctrlsynth": json.dumps({"schema": 1, "bank": digest_of(kept)}).encode()}
            pq.write_table(table.replace_schema_metadata(meta), made, compression="zstd")
        else:
            made.write_text(_as_text(table, kept, path), encoding="utf-8")
        publish(made, path)


def _as_text(table: pa.Table, kept: list[str], path: Path) -> str:
    if path.suffix == ".json":
        return json.dumps(kept, ensure_ascii=False)
    if path.suffix == ".txt":
        broken = next((e for e in kept if "\n" in e or "\r" in e), None)
        if broken is not None:
            raise UserError(
                f"{path}: the entry {broken!r:.60} holds a line break; write a .parquet, .json or .csv"
            )
        return "".join(f"{entry}\n" for entry in kept)
    if path.suffix == ".csv":
        out = io.StringIO()
        rows = csv.writer(out, lineterminator="\n")
        rows.writerow(["entry", "source", "score"])
        there = {r["entry"]: r for r in reversed(table.to_pylist())}  # of repeats the first
        rows.writerows((e, there[e]["source"], there[e]["score"]) for e in kept)
        return out.getvalue()
    raise UserError(f"{path}: a bank is written as .parquet, .txt, .json or .csv")


def synset_names() -> list[str]:
    """The names of all synsets as MetaCLIP takes them, each once, sorted."""
    return sorted({synset.words[0].lower().partition(".")[0] for synset in wordnet.all_synsets()} - {""})


@dataclass(slots=True)
class SourceCount:
    """What one source gave: `given` = `new` + `repeats` (of entries known already) + `dropped` by reason
    + `over_cap`."""

    source: str
    given: int
    new: int = 0
    repeats: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    over_cap: int = 0


def build(
    sources: Sequence[tuple[str, Scored | pa.Table]], cap: int = CAP
) -> tuple[pa.Table, list[SourceCount]]:
    """One bank of (name, entries with scores, or a bank's table) in order of priority, and what became of
    each source.

    Removes blanks at an entry's edges and shortens runs of them inside to one space. Drops entries of nothing
    but marks or blanks, those with U+FFFD (bytes that were not UTF-8), and those over the cap. A table's
    entries keep their origins, scores and flags; flagged in one source is flagged in the bank. Raises
    UserError when nothing is left."""
    if cap < 1:
        raise UserError(f"cap {cap}: at least 1")
    found: dict[str, tuple[list[str], float | None]] = {}
    flags: dict[bool, dict[str, str | None]] = {True: {}, False: {}}
    told = []
    for source, entries in sources:
        if not isinstance(entries, pa.Table):
            entries = table_of([(entry, source, score) for entry, score in entries])
        count = SourceCount(source, entries.num_rows)
        for row in entries.to_pylist():
            entry, origins = form(row["entry"] or ""), (row["source"] or source).split("+")
            if row["flagged"] is not None:
                flags[row["flagged"]].setdefault(entry, row["reason"])
            if _MARKS.issuperset(entry) or "\ufffd" in entry:
                why = "undecodable" if "\ufffd" in entry else "punctuation" if entry else "blank"
                count.dropped[why] = count.dropped.get(why, 0) + 1
            elif entry in found:
                count.repeats += 1
                found[entry][0].extend(name for name in origins if name not in found[entry][0])
            elif len(found) >= cap:
                count.over_cap += 1
            else:
                found[entry] = (origins, row["score"])
                count.new += 1
        told.append(count)
    if not found:
        raise UserError("the bank would be empty: no source gave an entry")
    table = table_of([(entry, "+".join(names), score) for entry, (names, score) in found.items()])
    known = flags[False] | flags[True]
    marks = [entry in flags[True] if entry in known else None for entry in found]
    return with_flags(table, marks, [known.get(entry) for entry in found]), told


def with_flags(table: pa.Table, flagged: Sequence[bool | None], reasons: Sequence[str | None]) -> pa.Table:
    """The bank with these two columns."""
    columns = dict(zip(table.column_names, table.columns, strict=True))
    return pa.table(columns | {"flagged": flagged, "reason": reasons}, SCHEMA)


def distinct(table: pa.Table) -> pa.Table:
    """The rows of a bank without blank entries and repeats; flagged in one row is flagged in all that are the
    same but for blanks."""
    first: dict[str, int] = {}
    for number, entry in enumerate(table["entry"].to_pylist()):
        if entry and entry.strip():
            first.setdefault(entry, number)
    kept, unfit = table.take(list(first.values())), flagged_forms(table)
    flags = [form(e) in unfit or f for e, f in zip(first, kept["flagged"].to_pylist(), strict=True)]
    return with_flags(kept, flags, kept["reason"].to_pylist())


def by_score(scores: Iterable[tuple[str, float]], least: float) -> list[tuple[str, float]]:
    """Entries with a score of at least `least`, the highest first, equal ones by the alphabet."""
    return sorted(((e, float(s)) for e, s in scores if s >= least), key=lambda item: (-item[1], item[0]))


def random_part(table: pa.Table, size: int, seed: int) -> pa.Table:
    """`size` entries that are not flagged, drawn by (seed, entry), in their order: a smaller draw is a subset
    of a larger one. UserError when there are fewer."""
    table = table.filter(pa.array([not flagged for flagged in table["flagged"].to_pylist()], pa.bool_()))
    entries = table["entry"].to_pylist()
    if not 0 < size <= len(entries):
        raise UserError(f"a random draw of {size:,}: the bank has {len(entries):,} entries")
    order = sorted(range(len(entries)), key=lambda i: (draw(seed, entries[i], "sub-bank"), entries[i]))
    return table.take(sorted(order[:size]))


def subtree(table: pa.Table, name: str) -> pa.Table:
    """The entries that are words of a WordNet class or of one below it (`animal.n.01`), in any case.
    UserError when there are none."""
    top = wordnet.synset(name)
    words = {w.lower() for synset in (top, *wordnet.descendants(top)) for w in synset.words}
    kept = [entry.lower() in words for entry in table["entry"].to_pylist()]
    return _some(table, kept, f"no entry of the bank is a word of {top.name} or of a class below it")


def found_part(table: pa.Table, entries: Sequence[str], counts: Sequence[int], least: int = 1) -> pa.Table:
    """The entries that at least `least` texts hold, by the `counts` of `entries` (C_CC3M: those found in
    CC3M's captions). UserError when there are none."""
    seen = {entry for entry, count in zip(entries, counts, strict=True) if count >= least}
    kept = [entry in seen for entry in table["entry"].to_pylist()]
    return _some(table, kept, "no entry of the bank is found in these captions")


def _some(table: pa.Table, kept: list[bool], fault: str) -> pa.Table:
    if not any(kept):
        raise UserError(fault)
    return table.filter(pa.array(kept))

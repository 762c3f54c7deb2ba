"""The formats of an export: webdataset shards, parquet that Hugging Face `datasets` opens with images,
imagefolder, csv.

A writer fills an empty folder with samples, numbered by shard and position in it as img2dataset numbers them
(five digits and four). The same samples give the same bytes.
"""

import csv
import io
import json
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..stages.tables import IMAGE

ROW_GROUP = (100, 64 * 2**20)
"""Images and bytes of images at which a parquet row group is full."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One pair to write. `suffix` is the image's format (`jpg`, `png`, `webp`), `facts` its provenance."""

    image: bytes | None
    suffix: str
    text: str
    facts: dict[str, Any] = field(default_factory=dict)


Numbered = tuple[str, str, Sample]
"""Number of the shard, key (the number of the sample), sample."""


def _numbered(samples: Iterable[Sample], per_shard: int) -> Iterator[Numbered]:
    digits = max(4, len(str(per_shard - 1)))
    for n, sample in enumerate(samples):
        shard = f"{n // per_shard:05d}"
        yield shard, f"{shard}{n % per_shard:0{digits}d}", sample


def _shards(samples: Iterable[Sample], per_shard: int) -> Iterator[tuple[str, Iterator[Numbered]]]:
    return groupby(_numbered(samples, per_shard), itemgetter(0))


def write_webdataset(folder: Path, samples: Iterable[Sample], per_shard: int) -> None:
    """Writes `00000.tar` ... with key.jpg, key.txt, key.json. `sizes.json` holds the samples of each shard,
    where open_clip looks for them."""
    sizes: Counter[str] = Counter()
    for shard, group in _shards(samples, per_shard):
        with tarfile.open(folder / f"{shard}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for _, key, sample in group:
                assert sample.image is not None, "webdataset samples have an image"
                facts = json.dumps({"key": key, **sample.facts}, ensure_ascii=False)
                members = {sample.suffix: sample.image, "txt": sample.text.encode(), "json": facts.encode()}
                for suffix, data in members.items():
                    # date, owner and mode keep their fixed defaults: equal samples, equal bytes
                    info = tarfile.TarInfo(f"{key}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
                sizes[f"{shard}.tar"] += 1
    (folder / "sizes.json").write_text(json.dumps(sizes, indent=1) + "\n", encoding="utf-8")


_COLUMNS: dict[str, tuple[pa.DataType, str]] = {
    "id": (pa.string(), "string"),
    "pair": (pa.string(), "string"),
    "source_key": (pa.string(), "string"),
    "paths": (pa.string(), "string"),
    "original_caption": (pa.string(), "string"),
    "template": (pa.string(), "string"),
    "style": (pa.string(), "string"),
    "prompt": (pa.string(), "string"),
    "text_model": (pa.string(), "string"),
    "image_model": (pa.string(), "string"),
    "text_recall": (pa.float32(), "float32"),
    "image_recall": (pa.float32(), "float32"),
    "clip_tokens": (pa.int32(), "int32"),
    "truncated": (pa.bool_(), "bool"),
    "width": (pa.int32(), "int32"),
    "height": (pa.int32(), "int32"),
    "source": (pa.string(), "string"),
}


def _parquet_schema() -> pa.Schema:
    """Columns of the parquet form. The metadata makes `image` an Image feature in Hugging Face `datasets`."""
    dtypes = {"text": "string", **{name: dtype for name, (_, dtype) in _COLUMNS.items()}}
    features: dict[str, Any] = {"image": {"_type": "Image"}}
    features |= {name: {"dtype": dtype, "_type": "Value"} for name, dtype in dtypes.items()}
    fields = [("image", IMAGE), ("text", pa.string()), *((n, t) for n, (t, _) in _COLUMNS.items())]
    return pa.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": features}})})


def write_parquet(folder: Path, samples: Iterable[Sample], per_shard: int) -> None:
    """Writes `train-00000.parquet` ...: an Image column, the text, the provenance."""
    schema = _parquet_schema()
    for shard, group in _shards(samples, per_shard):
        with pq.ParquetWriter(folder / f"train-{shard}.parquet", schema, compression="zstd") as file:
            for rows in _row_groups(group):
                file.write_table(pa.Table.from_pylist(rows, schema=schema))


def _row_groups(group: Iterable[Numbered]) -> Iterator[list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    size = 0
    for _, key, sample in group:
        image = {"bytes": sample.image, "path": f"{key}.{sample.suffix}"} if sample.image else None
        facts = {name: sample.facts.get(name) for name in _COLUMNS}
        facts["paths"] = ", ".join(sample.facts.get("paths") or ())
        rows.append({"image": image, "text": sample.text, **facts, "source": _source(sample)})
        size += len(sample.image or b"")
        if len(rows) >= ROW_GROUP[0] or size >= ROW_GROUP[1]:
            yield rows
            rows, size = [], 0
    if rows:
        yield rows


def _source(sample: Sample) -> str:
    """The source's own metadata as JSON, since its keys differ from row to row."""
    return json.dumps(sample.facts.get("source") or {}, ensure_ascii=False)


def _with_files(folder: Path, samples: Iterable[Sample]) -> Iterator[tuple[str, Sample]]:
    """Writes images as files, a thousand per folder; yields each sample with its image's name relative to
    `folder`, empty without an image."""
    for shard, key, sample in _numbered(samples, 1000):
        name = f"images/{shard}/{key}.{sample.suffix}" if sample.image is not None else ""
        if sample.image is not None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(sample.image)
        yield name, sample


def write_imagefolder(folder: Path, samples: Iterable[Sample], per_shard: int) -> None:
    """Writes `images/` and `metadata.jsonl` with `file_name` and `text`, as Hugging Face's imagefolder reads
    them."""
    with open(folder / "metadata.jsonl", "w", encoding="utf-8", newline="") as out:
        for name, sample in _with_files(folder, samples):
            facts = {k: v for k, v in sample.facts.items() if k != "source"}
            line = {"file_name": name, "text": sample.text, **facts, "source": _source(sample)}
            out.write(json.dumps(line, ensure_ascii=False) + "\n")


def write_csv(folder: Path, samples: Iterable[Sample], per_shard: int = 0) -> None:
    """Writes `data.csv` with open_clip's columns `filepath` and `title`, and the images as files. The only
    form for texts without images."""
    names = [n for n in _COLUMNS if n not in ("paths", "source")]
    with open(folder / "data.csv", "w", encoding="utf-8", newline="") as out:
        rows = csv.writer(out, lineterminator="\n")
        rows.writerow(["filepath", "title", *names])
        for name, sample in _with_files(folder, samples):
            cells = [sample.facts.get(n) for n in names]
            rows.writerow([name, sample.text, *("" if c is None else c for c in cells)])


WRITERS: dict[str, Callable[[Path, Iterable[Sample], int], None]] = {
    "webdataset": write_webdataset,
    "parquet": write_parquet,
    "imagefolder": write_imagefolder,
    "csv": write_csv,
}
_DATASETS = "With [datasets](https://github.com/huggingface/datasets):\n\n```python\nfrom datasets import "
_LOADING = {
    "webdataset": (
        "With [open_clip](https://github.com/mlfoundations/open_clip):\n\n```\n--dataset-type webdataset "
        "--train-data '{folder}/{shards}.tar' --train-num-samples {count}\n```"
    ),
    "parquet": (
        _DATASETS + 'load_dataset\ndata = load_dataset("parquet", data_files="{folder}/*.parquet", '
        'split="train")\ndata[0]["image"], data[0]["text"]\n```'
    ),
    "imagefolder": (
        _DATASETS
        + 'load_dataset\ndata = load_dataset("imagefolder", data_dir="{folder}", split="train")\n```'
    ),
    "csv": (
        "With open_clip, started in this folder (paths in the file are relative to it):\n\n```\n"
        "--dataset-type csv --train-data data.csv --csv-separator , --train-num-samples {count}\n```"
    ),
}


def loading(form: str, folder: str, count: int, per_shard: int) -> str:
    """Returns how to open a data set of `count` samples in the folder of this name, in Markdown."""
    last = (count - 1) // per_shard
    shards = f"{{00000..{last:05d}}}" if last else "00000"
    return _LOADING[form].format(folder=folder, shards=shards, count=count)

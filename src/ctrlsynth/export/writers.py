"""The formats of an export: webdataset shards, parquet that Hugging Face `datasets` opens with images,
imagefolder, csv.

A writer fills an empty folder; the same samples give the same bytes.
"""

import csv
import io
import json
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..stages.tables import IMAGE


@dataclass(frozen=True, slots=True)
class Sample:
    """One pair to write. `suffix` is the image's format (`jpg`, `png`, `webp`), `facts` its provenance."""

    image: bytes | None
    suffix: str
    text: str
    facts: dict[str, Any] = field(default_factory=dict)


class Writer:
    """Writes samples in one format. Numbers them by shard and position in it, as img2dataset names them (five
    digits and four)."""

    def __init__(self, folder: Path, max_per_shard: int) -> None:
        self._folder, self._most, self.count = folder, max_per_shard, 0

    @property
    def _shard(self) -> str:
        """The number of the next sample's shard."""
        return f"{self.count // self._most:05d}"

    @property
    def _key(self) -> str:
        """The number of the next sample."""
        return f"{self._shard}{self.count % self._most:0{max(4, len(str(self._most - 1)))}d}"

    def add(self, sample: Sample) -> None:
        """Writes the next sample."""
        raise NotImplementedError

    def close(self) -> None:
        """Completes the files."""

    def load(self, name: str) -> str:
        """Returns how to open the data set, in Markdown; after `close`."""
        raise NotImplementedError


class WebDatasetWriter(Writer):
    """`00000.tar` ... with key.jpg, key.txt, key.json; `sizes.json` holds the samples of each shard, where
    open_clip looks for them."""

    def __init__(self, folder: Path, max_per_shard: int) -> None:
        super().__init__(folder, max_per_shard)
        self._tar: tarfile.TarFile | None = None
        self.sizes: dict[str, int] = {}

    def add(self, sample: Sample) -> None:
        if sample.image is None:
            raise ValueError("webdataset samples have an image")
        shard, key = f"{self._shard}.tar", self._key
        if shard not in self.sizes:
            self._end()
            # closed in _end
            self._tar = tarfile.open(self._folder / shard, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
            self.sizes[shard] = 0
        self._member(f"{key}.{sample.suffix}", sample.image)
        self._member(f"{key}.txt", sample.text.encode())
        self._member(f"{key}.json", json.dumps({"key": key, **sample.facts}, ensure_ascii=False).encode())
        self.sizes[shard] += 1
        self.count += 1

    def _member(self, name: str, data: bytes) -> None:
        assert self._tar is not None
        info = tarfile.TarInfo(
            name
        )  # date, owner and mode stay at their fixed defaults: equal samples, equal bytes
        info.size = len(data)
        self._tar.addfile(info, io.BytesIO(data))

    def _end(self) -> None:
        if self._tar is not None:
            self._tar.close()

    def close(self) -> None:
        self._end()
        (self._folder / "sizes.json").write_text(json.dumps(self.sizes, indent=1) + "\n", encoding="utf-8")

    def load(self, name: str) -> str:
        shards = f"{{00000..{len(self.sizes) - 1:05d}}}.tar" if len(self.sizes) > 1 else "00000.tar"
        return (
            "With [open_clip](https://github.com/mlfoundations/open_clip):\n\n```\n"
            f"--dataset-type webdataset --train-data '{name}/{shards}' --train-num-samples {self.count}\n```"
        )


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


def parquet_schema() -> pa.Schema:
    """Columns of the parquet form. The metadata makes `image` an Image feature in Hugging Face `datasets`."""
    features: dict[str, Any] = {"image": {"_type": "Image"}, "text": {"dtype": "string", "_type": "Value"}}
    for name, (_, dtype) in _COLUMNS.items():
        features[name] = {"dtype": dtype, "_type": "Value"}
    fields = [("image", IMAGE), ("text", pa.string()), *((n, t) for n, (t, _) in _COLUMNS.items())]
    return pa.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": features}})})


class ParquetWriter(Writer):
    """`train-00000.parquet` ...: an Image column, the text, the provenance. Row groups of 100 images, 64 MB
    at most."""

    def __init__(self, folder: Path, max_per_shard: int) -> None:
        super().__init__(folder, max_per_shard)
        self._schema = parquet_schema()
        self._file: pq.ParquetWriter | None = None
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0

    def add(self, sample: Sample) -> None:
        if self.count % self._most == 0:
            self.close()
            path = self._folder / f"train-{self._shard}.parquet"
            self._file = pq.ParquetWriter(path, self._schema, compression="zstd")
        image = {"bytes": sample.image, "path": f"{self._key}.{sample.suffix}"} if sample.image else None
        facts = {name: sample.facts.get(name) for name in _COLUMNS}
        facts["paths"] = ", ".join(sample.facts.get("paths") or ())
        facts["source"] = json.dumps(sample.facts.get("source") or {}, ensure_ascii=False)
        self._rows.append({"image": image, "text": sample.text, **facts})
        self._bytes += len(sample.image or b"")
        self.count += 1
        if len(self._rows) >= 100 or self._bytes >= 64 * 2**20:
            self._flush()

    def _flush(self) -> None:
        if self._rows and self._file is not None:
            self._file.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows, self._bytes = [], 0

    def close(self) -> None:
        self._flush()
        if self._file is not None:
            self._file.close()

    def load(self, name: str) -> str:
        return (
            "With [datasets](https://github.com/huggingface/datasets):\n\n```python\n"
            f'from datasets import load_dataset\ndata = load_dataset("parquet", '
            f'data_files="{name}/*.parquet", split="train")\n'
            'data[0]["image"], data[0]["text"]\n```'
        )


class _FilesWriter(Writer):
    """Writes images as files, a thousand per folder, and lists them in the file `listing`."""

    listing = ""

    def __init__(self, folder: Path, max_per_shard: int) -> None:
        super().__init__(folder, 1000)
        # closed in close
        self._out = open(folder / self.listing, "w", encoding="utf-8", newline="")  # noqa: SIM115

    def close(self) -> None:
        self._out.close()

    def _put(self, sample: Sample) -> str:
        """Writes the image; returns its name relative to the data set's folder, empty without an image."""
        name = f"images/{self._shard}/{self._key}.{sample.suffix}" if sample.image is not None else ""
        if sample.image is not None:
            path = self._folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(sample.image)
        self.count += 1
        return name


class ImageFolderWriter(_FilesWriter):
    """`images/` and `metadata.jsonl` with `file_name` and `text`: what Hugging Face's imagefolder reads."""

    listing = "metadata.jsonl"

    def add(self, sample: Sample) -> None:
        facts = {k: v for k, v in sample.facts.items() if k != "source"}
        facts["source"] = json.dumps(sample.facts.get("source") or {}, ensure_ascii=False)
        line = {"file_name": self._put(sample), "text": sample.text, **facts}
        self._out.write(json.dumps(line, ensure_ascii=False) + "\n")

    def load(self, name: str) -> str:
        return (
            "With [datasets](https://github.com/huggingface/datasets):\n\n```python\n"
            f'from datasets import load_dataset\ndata = load_dataset("imagefolder", data_dir="{name}", '
            f'split="train")\n```'
        )


class CsvWriter(_FilesWriter):
    """`data.csv` with open_clip's columns `filepath` and `title`, and the images as files. The only form for
    texts without images."""

    listing = "data.csv"

    def __init__(self, folder: Path, max_per_shard: int) -> None:
        super().__init__(folder, max_per_shard)
        self._csv = csv.writer(self._out, lineterminator="\n")
        self._names = [n for n in _COLUMNS if n not in ("paths", "source")]
        self._csv.writerow(["filepath", "title", *self._names])

    def add(self, sample: Sample) -> None:
        cells = [sample.facts.get(n) for n in self._names]
        self._csv.writerow([self._put(sample), sample.text, *("" if c is None else c for c in cells)])

    def load(self, name: str) -> str:
        return (
            "With open_clip, started in this folder (paths in the file are relative to it):\n\n```\n"
            f"--dataset-type csv --train-data data.csv --csv-separator , --train-num-samples "
            f"{self.count}\n```"
        )


WRITERS: dict[str, type[Writer]] = {
    "webdataset": WebDatasetWriter,
    "parquet": ParquetWriter,
    "imagefolder": ImageFolderWriter,
    "csv": CsvWriter,
}

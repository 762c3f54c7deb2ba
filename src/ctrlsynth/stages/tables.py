"""The columns of every stage's table (DESIGN, section 3), as arrow schemas. `SCHEMA` is the number that every
table and plan.json carry.

Common columns: `id`, `parent` (the id without its last step), `source_key`, `key` (what decides about reuse),
`status` (`ok`, `dropped`, `failed`), `reason` (a short stable word, null when ok), `error` (the message of
the fault that set the row aside, where there was one), `seconds` (the row's share of model time), `model`.
"""

from __future__ import annotations

import pyarrow as pa

_words = pa.list_(pa.string())
_common = [
    ("id", pa.string()),
    ("parent", pa.string()),
    ("source_key", pa.string()),
    ("key", pa.string()),
    ("status", pa.string()),
    ("reason", pa.string()),
    ("error", pa.string()),
    ("seconds", pa.float32()),
    ("model", pa.string()),
]
EDIT = pa.struct(
    [
        ("edit", pa.int32()),
        ("op", pa.string()),
        ("kind", pa.string()),
        ("before", pa.string()),
        ("after", pa.string()),
    ]
)
"""What one edit did to one phrase: number in the policy, name, kind, phrase before (null: added) and after
(null: removed)."""
TAGS = pa.struct([("objects", _words), ("attributes", _words), ("relations", _words)])
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
WEIGHT = pa.map_(pa.string(), pa.float32())
VERDICT = pa.struct([("recall", pa.float32()), ("found", _words), ("missed", _words), ("violations", _words)])
"""One reference against one text or image. recall is null where the reference has no phrases."""

READ = pa.schema(
    [
        *_common,
        ("caption", pa.string()),
        ("metadata", pa.string()),  # JSON object with whatever else the source knows
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("sha256", pa.string()),  # of the image's encoded bytes; null without an image
        ("file", pa.string()),
        ("member", pa.string()),  # of a tar: the member's name; of a parquet file: the column
        (
            "offset",
            pa.int64(),
        ),  # of a tar: the byte where the member's data begins; of a parquet file: the row
        ("length", pa.int64()),  # bytes
    ]
)
TAG = pa.schema(
    [
        *_common,
        *((kind, _words) for kind in ("objects", "attributes", "relations")),
        ("scores", pa.list_(pa.float32())),
        ("caption", pa.string()),
        ("dropped_phrases", pa.int32()),  # that a language model named and the caption lacks
    ]
)
WRITE = pa.schema(
    [
        *_common,
        ("candidate", pa.int32()),
        ("chosen", pa.bool_()),
        ("tags", TAGS),  # as edited: what the writer was given
        ("edits", pa.list_(EDIT)),
        ("template", pa.string()),
        ("instruction", pa.string()),
        ("text", pa.string()),
        ("fields", pa.string()),  # JSON style: the whole object
        ("raw", pa.string()),
        ("prompt_tokens", pa.int32()),
        ("completion_tokens", pa.int32()),
        ("clip_tokens", pa.int32()),
        ("truncated", pa.bool_()),
        ("seed", pa.int64()),
    ]
)
PAINT = pa.schema(
    [
        *_common,
        ("prompt", pa.string()),
        ("negative", pa.string()),
        ("style", pa.string()),
        ("weights", WEIGHT),
        ("weights_unused", _words),
        ("drawn", _words),
        ("not_drawn", _words),
        ("image", IMAGE),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("clip_tokens", pa.int32()),
        (
            "truncated",
            pa.bool_(),
        ),  # a part of the prompt reached no text encoder; as CLIP cuts where the model does not say
        ("seed", pa.int64()),
        (
            "chunks",
            pa.int32(),
        ),  # in how many pieces of 75 tokens a long prompt was read, where the model chunks; null elsewhere
        (
            "flagged",
            pa.bool_(),
        ),  # the model's own safety checker; true: the row is dropped as `unsafe`. null: it has none
    ]
)
MATCH = pa.schema([*_common, ("matches", pa.list_(pa.int32())), ("concepts", _words)])
"""Which entries of the bank a caption holds: `matches` their places in the bank, `concepts` themselves."""
BALANCE = pa.schema([*_common, ("text", pa.string()), ("chance", pa.float32())])
"""`text` of the captions that go on; `chance` of going on, null where nothing was drawn (`no_match`,
`duplicate`)."""
JUDGE_TEXT = pa.schema([*_common, ("edited", VERDICT), ("verdict", pa.string())])
JUDGE_IMAGE = pa.schema(
    [
        *_common,
        ("text", VERDICT),
        ("original", VERDICT),
        ("original_unedited", VERDICT),
        ("unsafe", pa.float32()),
        ("verdict", pa.string()),
    ]
)
"""`verdict` is `kept` or the reason of the rejection: `low_recall`, `no_reference`, `violation`, `unsafe`."""

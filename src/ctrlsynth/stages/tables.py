"""The columns of every stage's table, as arrow schemas.

Common columns: `id`, `parent` (the id without its last step), `source_key`, `key` (decides about reuse),
`status` (`ok`, `dropped`, `failed`), `reason` (a short stable word, null when ok), `error` (the message of
the fault that made the row fail, if there was one), `seconds` (the row's share of model time), `model`.
"""

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
"""The effect of one edit on one phrase: number in the policy, name, kind, phrase before (null: added) and
after (null: removed)."""
TAGS = pa.struct([("objects", _words), ("attributes", _words), ("relations", _words)])
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
WEIGHT = pa.map_(pa.string(), pa.float32())
VERDICT = pa.struct([("recall", pa.float32()), ("found", _words), ("missed", _words), ("violations", _words)])
"""Score of one text or image against one reference; recall is null if the reference has no phrases."""

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
        ("offset", pa.int64()),  # of a tar: the first byte of the member's data; of a parquet file: the row
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
        ),  # part of the prompt reached no text encoder; CLIP's cut if the model is silent
        ("seed", pa.int64()),
        ("chunks", pa.int32()),  # pieces of 75 tokens that a long prompt was read in, if the model chunks
        ("flagged", pa.bool_()),  # by the model's own safety checker: dropped as `unsafe`; null: it has none
    ]
)
MATCH = pa.schema([*_common, ("matches", pa.list_(pa.int32())), ("concepts", _words)])
"""The bank's entries in a caption: `matches` by number, `concepts` by name."""
BALANCE = pa.schema([*_common, ("text", pa.string()), ("chance", pa.float32())])
"""`text` of the captions that are kept; `chance` of being kept, null if nothing was drawn (`no_match`,
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

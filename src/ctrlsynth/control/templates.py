"""Templates as data: the strict language in which 3a's instructions and 3b's styles are written, and the
files that hold them.

The language has two things: `{name}` of a known placeholder, and `{{` `}}` for literal braces. Everything
else in braces is an error. A template is cut into pieces once; filling it in joins pieces and values in one
pass, so braces in captions and tags are plain text."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from importlib import resources
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import model_validator

from ..errors import UserError, unknown
from ..recipe.block import Block
from ..recipe.file import read_text, read_yaml, validated

Family = Literal["tags", "tags+text", "text", "concept"]
FAMILIES: tuple[Family, ...] = ("tags", "tags+text", "text", "concept")
PHRASES = frozenset({"phrases", "objects", "attributes", "relations"})
_TEXT_PLACEHOLDERS = PHRASES | {"caption", "concept", "examples"}
_ALLOWED: dict[Family, frozenset[str]] = {
    "tags": PHRASES,
    "tags+text": PHRASES | {"caption"},
    "text": frozenset({"caption"}),
    "concept": frozenset({"concept", "examples"}),
}
_NEEDED: dict[Family, dict[str, frozenset[str]]] = {
    "tags": {"{phrases}": PHRASES},
    "tags+text": {"{caption}": frozenset({"caption"}), "{phrases}": PHRASES},
    "text": {"{caption}": frozenset({"caption"})},
    "concept": {"{concept}": frozenset({"concept"})},
}
_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


@dataclass(frozen=True, slots=True)
class Template:
    """A cut template: `pieces` are literal text at even indices and names of placeholders at odd ones."""

    name: str
    family: Family | None
    text: str
    pieces: tuple[str, ...]
    source: str = "own"
    section: str | None = None
    note: str | None = None

    @property
    def placeholders(self) -> frozenset[str]:
        return frozenset(self.pieces[1::2])

    def fill(self, values: Mapping[str, str]) -> str:
        """The text with each placeholder's value in its place. Braces in a value are plain
        text; a full stop at its end gives way to one that the template puts behind it."""
        parts = list(self.pieces)
        for at in range(1, len(parts), 2):
            value = values[parts[at]]
            parts[at] = (
                value.rstrip(". ") if value[-1:] == "." and parts[at + 1].lstrip().startswith(".") else value
            )
        return "".join(parts)


def cut(text: str, allowed: Iterable[str], where: str) -> tuple[str, ...]:
    """Cuts a template's text into pieces. An unknown placeholder is an error with the nearest right name; so
    is a single brace."""
    names = frozenset(allowed)
    pieces, literal, end = [], "", 0
    for match in _TOKEN.finditer(text):
        literal += text[end : match.start()]
        end = match.end()
        if match[0] in ("{{", "}}"):
            literal += match[0][0]
        elif match[1] is None:
            raise UserError(
                f"{where}: {match[0]!r} at character {match.start() + 1} stands alone; write it twice for a "
                f"literal brace"
            )
        elif match[1] not in names:
            raise unknown("placeholder", match[1], names, where)
        else:
            pieces += [literal, match[1]]
            literal = ""
    return (*pieces, literal + text[end:])


def text_template(
    name: str, family: str, text: str, where: str, bare: bool = False, **about: str | None
) -> Template:
    """One text template, checked: it asks for nothing that its family cannot give, and for what makes it of
    this family (`bare` templates of the package need not)."""
    if family not in FAMILIES:
        raise unknown("family", family, FAMILIES, where)
    template = Template(name, family, text, cut(text, _TEXT_PLACEHOLDERS, where), **cast(Any, about))
    used = template.placeholders
    extra = sorted(used - _ALLOWED[family])
    if extra:
        has = ", ".join(f"{{{n}}}" for n in sorted(_ALLOWED[family]))
        raise UserError(f"{where}: {{{extra[0]}}} is not available in family {family!r}, which has {has}")
    if not bare and not all(used & names for names in _NEEDED[family].values()):
        need = " and ".join(_NEEDED[family])
        raise UserError(f"{where}: a template of family {family!r} must contain {need}")
    return template


def style_template(name: str, text: str, where: str, **about: str | None) -> Template:
    """One image style: `{prompt}` exactly once."""
    pieces = cut(text, {"prompt"}, where)
    if len(pieces) != 3:
        raise UserError(f"{where}: a style contains {{prompt}} once, this one {len(pieces) // 2} times")
    return Template(name, None, text, pieces, **cast(Any, about))


class Entry(Block):
    """A template as a file holds it: its text alone, or a mapping."""

    text: str
    source: str | None = None
    section: str | None = None
    note: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _alone(cls, value: Any) -> Any:
        return {"text": value} if isinstance(value, str) else value


class TextEntry(Entry):
    """A text template as a file holds it."""

    family: str


def _own(path: Path, what: str, taken: Iterable[str]) -> Mapping[Any, Any]:
    data = read_yaml(read_text(path, what), str(path))
    if not isinstance(data, Mapping) or not data:
        raise UserError(f"{path}: {what} are a mapping of names, and at least one")
    for name in data:
        if name in taken:
            raise UserError(f"{path}: {name}: this name comes with the package; choose another")
    return data


def _data(name: str) -> Any:
    text = (resources.files("ctrlsynth.control") / "templates" / name).read_text(encoding="utf-8")
    return read_yaml(text, name)


def _templates(
    data: Mapping[Any, Any], where: object, entry: type[Entry], make: Callable[..., Template]
) -> dict[str, Template]:
    found = {}
    for name, value in data.items():
        spot = f"{where}: {name}"
        about = validated(entry, value, spot).model_dump(exclude_none=True)
        found[str(name)] = make(str(name), where=spot, **about)
    return found


@cache
def text_templates() -> dict[str, Template]:
    """The templates that come with the package, by name, in the order of the file."""
    return _templates(_data("text.yaml"), "text.yaml", TextEntry, text_template)


@cache
def baselines() -> dict[str, Template]:
    """Templates of the package that `templates: all` leaves out: SynthCLIP's earlier attempts, by name."""
    made = partial(text_template, bare=True)
    return _templates(_data("baselines.yaml"), "baselines.yaml", TextEntry, made)


@cache
def constraint() -> tuple[str, str]:
    """The constraint of the paper's figure 3: what the caption should be like, and the sentence about its
    bare form."""
    data = _data("constraint.yaml")
    return data["content"], data["form"]


@cache
def styles() -> dict[str, Template]:
    """The image styles that come with the package, by name."""
    return _templates(_data("styles.yaml"), "styles.yaml", Entry, style_template)


def own_templates(path: Path) -> dict[str, Template]:
    """A user's text templates: YAML `name: {family, text}`. A name that comes with the package is taken."""
    own = _own(path, "templates", text_templates() | baselines())
    return _templates(own, path, TextEntry, text_template)


def own_styles(path: Path) -> dict[str, Template]:
    """A user's image styles: YAML `name: text with {prompt}` (or `{text, note}`). A name that comes with the
    package is taken."""
    return _templates(_own(path, "styles", styles()), path, Entry, style_template)

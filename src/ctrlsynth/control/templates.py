"""Templates as data: the strict language in which 3a's instructions and 3b's styles are written, and the
files that hold them.

The language has two things: `{name}` of a known placeholder, and `{{` `}}` for literal braces. Everything
else in braces is an error. A template is cut into pieces once; filling it in joins pieces and values in one
pass, so braces in captions and tags are plain text."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal, cast

from ..errors import UserError, unknown
from ..recipe.file import read_text, read_yaml

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
    kind = next(known for known in FAMILIES if known == family)
    template = Template(name, kind, text, cut(text, _TEXT_PLACEHOLDERS, where), **cast(Any, about))
    used = template.placeholders
    extra = sorted(used - _ALLOWED[kind])
    if extra:
        has = ", ".join(f"{{{n}}}" for n in sorted(_ALLOWED[kind]))
        raise UserError(f"{where}: {{{extra[0]}}} is not at hand in family {kind!r}, which has {has}")
    fits = {
        "tags": used & PHRASES,
        "tags+text": used & PHRASES and "caption" in used,
        "text": "caption" in used,
        "concept": "concept" in used,
    }
    if not fits[kind] and not bare:
        need = {
            "tags": "{phrases}",
            "tags+text": "{caption} and {phrases}",
            "text": "{caption}",
            "concept": "{concept}",
        }[kind]
        raise UserError(f"{where}: a template of family {kind!r} must contain {need}")
    return template


def style_template(name: str, text: str, where: str, **about: str | None) -> Template:
    """One image style: `{prompt}` exactly once."""
    pieces = cut(text, {"prompt"}, where)
    if len(pieces) != 3:
        raise UserError(f"{where}: a style contains {{prompt}} once, this one {len(pieces) // 2} times")
    return Template(name, None, text, pieces, **cast(Any, about))


def _entry(value: Any, where: str, required: frozenset[str]) -> dict[str, str]:
    optional = {"note", "source", "section"}
    if not isinstance(value, Mapping):
        raise UserError(
            f"{where}: expected a mapping with {' and '.join(sorted(required))}, not {type(value).__name__}"
        )
    for key, item in value.items():
        if key not in required | optional:
            raise unknown("key", str(key), required | optional, where)
        if not isinstance(item, str):
            raise UserError(f"{where}.{key}: expected text, not {item!r}")
    missing = sorted(required - set(value))
    if missing:
        raise UserError(f"{where}: {missing[0]!r} is missing")
    return dict(value)


def _file(path: Path, what: str) -> Mapping[Any, Any]:
    data = read_yaml(read_text(path, what), str(path))
    if not isinstance(data, Mapping) or not data:
        raise UserError(f"{path}: {what} are a mapping of names, and at least one")
    return data


def _data(name: str) -> Any:
    text = (resources.files("ctrlsynth.control") / "templates" / name).read_text(encoding="utf-8")
    return read_yaml(text, name)


def _texts(data: Mapping[Any, Any], where: str, bare: bool = False) -> dict[str, Template]:
    found = {}
    for name, value in data.items():
        spot = f"{where}: {name}"
        found[str(name)] = text_template(
            str(name), where=spot, bare=bare, **_entry(value, spot, frozenset({"family", "text"}))
        )
    return found


@cache
def text_templates() -> dict[str, Template]:
    """The templates that come with the package, by name, in the order of the file."""
    return _texts(_data("text.yaml"), "text.yaml")


@cache
def baselines() -> dict[str, Template]:
    """Templates of the package that `templates: all` leaves out: SynthCLIP's earlier attempts, by name."""
    return _texts(_data("baselines.yaml"), "baselines.yaml", bare=True)


@cache
def constraint() -> tuple[str, str]:
    """The constraint of the paper's figure 3: what the caption should be like, and the sentence about its
    bare form."""
    data = _data("constraint.yaml")
    return data["content"], data["form"]


@cache
def styles() -> dict[str, Template]:
    """The image styles that come with the package, by name."""
    return {
        name: style_template(name, where=f"styles.yaml: {name}", **value)
        for name, value in _data("styles.yaml").items()
    }


def own_templates(path: Path) -> dict[str, Template]:
    """A user's text templates: YAML `name: {family, text}`. A name that comes with the package is taken."""
    return _beside(_texts(_file(path, "templates"), str(path)), text_templates() | baselines(), path)


def own_styles(path: Path) -> dict[str, Template]:
    """A user's image styles: YAML `name: text with {prompt}` (or `{text, note}`). A name that comes with the
    package is taken."""
    found = {}
    for name, value in _file(path, "styles").items():
        spot = f"{path}: {name}"
        entry = {"text": value} if isinstance(value, str) else _entry(value, spot, frozenset({"text"}))
        found[str(name)] = style_template(str(name), where=spot, **entry)
    return _beside(found, styles(), path)


def _beside(own: dict[str, Template], ours: Mapping[str, Template], path: Path) -> dict[str, Template]:
    for name in own:
        if name in ours:
            raise UserError(f"{path}: {name}: this name comes with the package; choose another")
    return own

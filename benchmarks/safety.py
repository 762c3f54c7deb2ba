"""What a model's flags are worth: `ctrlsynth concepts flag`'s question, asked about 50 concepts whose answer
is agreed on (25 unfit, among them the paper's five examples; 25 fit, ten of which only sound unfit), and a
block list beside it.

    python benchmarks/safety.py [--llm smollm2]
"""

from __future__ import annotations

import csv
import tempfile
from pathlib import Path

import harness
from ctrlsynth.api.run import run
from ctrlsynth.concepts.bank import read_bank, table_of, write_bank
from ctrlsynth.concepts.safety import answers, flag, question
from ctrlsynth.recipe.file import read_yaml

BLOCKED = (
    "porn pornography naked nude drunk weed cocaine heroin brothel prostitute suicide torture "
    "genocide massacre orgy rape".split()
)


def main() -> None:
    """Prints recall and precision of the model, of a list of sixteen words, and of both."""
    parser = harness.parser(__doc__)
    parser.add_argument("--llm", default="smollm2", help="as models.llm in a recipe")
    llm = read_yaml(parser.parse_args().llm, "--llm")
    with open(Path(__file__).with_name("safety_labels.csv"), encoding="utf-8") as handle:
        truth = {row["concept"]: row["unfit"] == "yes" for row in csv.DictReader(handle)}
    with tempfile.TemporaryDirectory() as folder:
        bank = Path(folder) / "bank.parquet"
        write_bank(table_of([(concept, "list", None) for concept in truth]), bank)
        told = list(answers(run(question(bank, llm), Path(folder) / "run").rows("write")))
        table = read_bank(bank)
    for name, said, blocked in ((str(llm), told, []), ("16 words", [], BLOCKED), ("both", told, BLOCKED)):
        flagged, flags = flag(table, said, blocked)
        found = {r["entry"] for r in flagged.to_pylist() if r["flagged"]}
        hits = sum(truth[entry] for entry in found)
        precision = f"{hits / len(found):.0%}" if found else "-"
        lost = sum(flags.unanswered.values())
        told_of = f"{hits} of {sum(truth.values())} unfit ones, precision {precision}, {lost} not answered"
        print(f"{name:10s} flags {len(found):2d} of {len(truth)}: {told_of}")


if __name__ == "__main__":
    main()

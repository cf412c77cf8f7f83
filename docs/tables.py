"""Write the tables of estimators into the pages: `python -m docs.tables`, from the repository's root.

A row is what an estimator declares: its name, targets and guarantees, and the lines `:measures: ...`, `:errs: ...` of
its docstring. A page has the marks `<!-- table: NAME -->` and `<!-- end of table -->` around each.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infoplane.estimators import ALL_GUARANTEES, available

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/methods.md", "docs/estimators.md")
COLUMNS = {
    "in short": {"what it measures": "measures"},
    "estimators": {"what it measures": "measures", "assumes": "assumes", "source": "source"},
    "at a glance": {
        "gives": "gives",
        "unit": "unit",
        "errs": "errs",
        "ceiling": "ceiling",
        "time": "cost",
        "memory": "memory",
    },
}


def declared(cls: type[Any]) -> dict[str, str]:
    """The lines `:key: text` of the docstring; a text goes on in indented lines."""
    found = re.findall(r"^:(\w+): (.+(?:\n +\S.*)*)", inspect.getdoc(cls) or "", re.M)
    return {key: " ".join(text.split()) for key, text in found}


def table(name: str, classes: Mapping[str, type[Any]]) -> str:
    """One table in Markdown, estimators of Shannon information first."""
    ordered = sorted(classes, key=lambda key: (declared(classes[key]).get("unit") != "bit", key))
    if name == "guarantees":
        heads = ["targets", *sorted(ALL_GUARANTEES)]
        rows = {
            key: [", ".join(sorted(cls.targets)), *("yes" if g in cls.guarantees else "" for g in heads[1:])]
            for key, cls in classes.items()
        }
    else:
        heads = list(COLUMNS[name])
        rows = {key: [declared(cls).get(c, "") for c in COLUMNS[name].values()] for key, cls in classes.items()}
    lines = [["name", *heads], ["---"] * (len(heads) + 1), *([f"`{key}`", *rows[key]] for key in ordered)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def with_tables(page: str, classes: Mapping[str, type[Any]]) -> str:
    """The text of a page with its tables as they should be."""
    return re.sub(
        r"(<!-- table: ([\w ]+) -->\n).*?(<!-- end of table -->)",
        lambda found: f"{found[1]}\n{table(found[2], classes)}\n\n{found[3]}",
        page,
        flags=re.S,
    )


def own() -> dict[str, type[Any]]:
    """The estimators of the package itself."""
    return {name: cls for name, cls in available().items() if cls.__module__.startswith("infoplane.")}


def main() -> None:
    for name in PAGES:
        path = ROOT / name
        path.write_text(with_tables(path.read_text(encoding="utf-8"), own()), encoding="utf-8")


if __name__ == "__main__":
    main()

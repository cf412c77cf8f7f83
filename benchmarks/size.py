"""How large the package is: `python -m benchmarks.size [PATH ...]`, one line for each checkout or package folder.

Code is what is left of a file without blank lines, comments on a line of their own, docstrings and imports, as
the formatter leaves it. A body is the code of a function below its signature, nested functions included.
"""

from __future__ import annotations

import ast
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
COLUMNS = "total,code,comments/100,modules,private,module p50,p90,max,body p50,p90,max,classes,dataclasses,fmt: skip"


@dataclass
class Size:
    """Counts over the modules read so far."""

    modules: list[int] = field(default_factory=list)
    private: int = 0
    code: int = 0
    comments: int = 0
    skips: int = 0
    bodies: list[int] = field(default_factory=list)
    classes: int = 0
    dataclasses: int = 0

    def add(self, path: Path) -> None:
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        code = code_lines(text, tree)
        self.modules.append(len(text.splitlines()))
        self.private += path.name.startswith("_") and not path.name.startswith("__")
        self.code += len(code)
        with tokenize.open(path) as file:
            comments = [t.string for t in tokenize.generate_tokens(file.readline) if t.type == tokenize.COMMENT]
        self.comments += len(comments)
        self.skips += sum("fmt: skip" in comment or "fmt: off" in comment for comment in comments)
        for node in ast.walk(tree):
            if isinstance(node, FUNCTION):
                lines = range(node.body[0].lineno, (node.end_lineno or node.lineno) + 1)
                self.bodies.append(sum(line in code for line in lines))
            elif isinstance(node, ast.ClassDef):
                self.classes += 1
                self.dataclasses += any("dataclass" in ast.unparse(one) for one in node.decorator_list)

    def row(self) -> list[str]:
        modules, bodies = np.array(self.modules), np.array(self.bodies)
        spread = [f"{np.percentile(a, q):.0f}" for a in (modules, bodies) for q in (50, 90, 100)]
        comments = f"{100 * self.comments / self.code:.1f}"
        counts = [str(self.classes), str(self.dataclasses), str(self.skips)]
        return [str(modules.sum()), str(self.code), comments, str(len(modules)), str(self.private), *spread, *counts]


def code_lines(text: str, tree: ast.Module) -> set[int]:
    """The lines that hold code."""
    lines = {n for n, line in enumerate(text.splitlines(), 1) if line.strip() and not line.lstrip().startswith("#")}
    for node in no_code(tree):
        lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return lines


def no_code(tree: ast.Module) -> Iterator[ast.stmt]:
    """Imports and strings that stand as statements: docstrings, of modules, functions and values."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom) or (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        ):
            yield node


def measure(folder: Path) -> Size:
    size = Size()
    for path in sorted(folder.rglob("*.py")):
        size.add(path)
    return size


def main() -> None:
    roots = [Path(a) for a in sys.argv[1:]] or [Path(__file__).parents[1]]
    heads = COLUMNS.split(",")
    print("| of | " + " | ".join(heads) + " |\n|" + " --- |" * (len(heads) + 1))
    for root in roots:
        package = root / "infoplane" if (root / "infoplane").is_dir() else root
        print(f"| {root.name} | " + " | ".join(measure(package).row()) + " |")


if __name__ == "__main__":
    main()

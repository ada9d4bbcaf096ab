"""How the code feels, in figures: the table of comparison with other projects, for any tree.

`python tools/measure_style.py [PACKAGE ...]` (esper and processors by default). Counts what Git
has, or every file where there is no Git; generated files are left out.
"""

from __future__ import annotations

import ast
import io
import subprocess
import sys
import tokenize
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

COLUMNS = 100
GENERATED = "Generated from "
PRAGMAS = ("noqa", "type: ignore", "fmt:", "pragma:", "!")


def files(packages: Iterable[str]) -> list[Path]:
    """The Python files of `packages`."""
    listed = subprocess.run(
        ["git", "ls-files", *packages], capture_output=True, text=True, check=False
    ).stdout.split()
    found = (
        map(Path, listed) if listed else (p for one in packages for p in Path(one).rglob("*.py"))
    )
    return [
        path
        for path in found
        if path.suffix == ".py" and GENERATED not in path.read_text(encoding="utf-8")[:200]
    ]


def comments(source: str) -> int:
    """Comments that say something to people: pragmas count with the reason that they give."""
    count = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            text = token.string.lstrip("# ")
            reason = text.startswith(PRAGMAS) and (
                " - " in text or " -- " in text or "  # " in text
            )
            count += bool(reason or not text.startswith(PRAGMAS))
    return count


def public_classes(tree: ast.Module) -> Iterator[str]:
    """Names of the classes at the top of a module that others may use."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield node.name


def lengths(tree: ast.Module) -> Iterator[int]:
    """Statements' lines of each function, its docstring left out."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
            yield (node.end_lineno or node.lineno) - first.lineno + 1


def main() -> int:
    """Print the figures; always 0, because what a figure may be is said elsewhere."""
    paths = files(sys.argv[1:] or ["esper", "processors"])
    lines = code = said = wide = 0
    modules: dict[str, list[str]] = defaultdict(list)
    classes: dict[str, list[str]] = defaultdict(list)
    folders: Counter[str] = Counter()
    functions: list[int] = []
    for path in paths:
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
        rows = source.splitlines()
        lines += len(rows)
        code += sum(bool(row.strip()) for row in rows)
        wide += sum(len(row) > COLUMNS for row in rows)
        said += comments(source)
        functions += lengths(tree)
        if path.stem not in ("__init__", "__main__"):
            folders[str(path.parent)] += 1
            modules[path.stem].append(str(path))
        for name in public_classes(tree):
            classes[name].append(str(path))
    functions.sort()
    print(f"files {len(paths)}, lines {lines}, code lines {code}")
    print(f"comments a 100 lines: {100 * said / code:.1f}")
    print(f"lines over {COLUMNS} columns: {wide} ({100 * wide / code:.2f} %)")
    print(f"function lines: median {functions[len(functions) // 2]}, longest {functions[-1]}")
    print(f"largest folders: {', '.join(f'{name} {n}' for name, n in folders.most_common(5))}")
    for what, found in (("module", modules), ("public class", classes)):
        twice = {name: places for name, places in sorted(found.items()) if len(places) > 1}
        print(f"{what} names used twice or more: {len(twice)}")
        for name, places in twice.items():
            print(f"  {name}: {', '.join(places)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

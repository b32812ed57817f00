"""Finds files over 300 lines, functions over 50, and module names that a source root has twice.

Part of `make check`.
"""

import ast
import sys
from collections import defaultdict
from pathlib import Path

FILE_LINES, FUNCTION_LINES = 300, 50


def problems(root: Path) -> list[str]:
    """A line for each file, function or module name of a source root that breaks a rule."""
    found = []
    names: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(root.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if (lines := text.count("\n")) > FILE_LINES:
            found.append(f"{path}: {lines} lines, {FILE_LINES} at most: split it")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > FUNCTION_LINES:
                    found.append(f"{path}:{node.lineno}: {node.name} has {lines} lines, {FUNCTION_LINES} at most")
        if path.stem == "__init__":
            names[path.parent.name].append(path.parent)
        elif path.stem != "__main__":
            names[path.stem].append(path)
    found += [f"{' and '.join(map(str, paths))}: one name for two" for paths in names.values() if len(paths) > 1]
    return found


def main() -> None:
    """Print all problems; exit with 1 if there are any."""
    found = [problem for root in ("src", "launchers") for problem in problems(Path(root))]
    print("\n".join(found) or "sizes and names: all files within the limits")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()

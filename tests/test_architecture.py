"""The import rule and the size rules of the house, held for every file."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HOUSE = ("storage", "pipeline", "student", "jobs")
ALLOWED = {
    "storage": {"storage"},
    "pipeline": {"pipeline", "storage"},
    "student": {"student", "storage"},
    "jobs": set(HOUSE),
}
FILES = sorted(path for folder in HOUSE for path in (ROOT / folder).rglob("*.py"))


class TypesDropped(ast.NodeTransformer):
    """Removes what only a type checker imports."""

    def visit_If(self, node: ast.If) -> ast.AST | None:
        is_guard = isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        return None if is_guard else self.generic_visit(node)


def imports(tree: ast.AST) -> set[str]:
    """Every absolutely imported module, at any depth of the file."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide which folder is meant"
            found.add(node.module or "")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    relative = path.relative_to(ROOT)
    tree = ast.parse(path.read_text())
    modules = imports(tree)
    folders = {name.split(".")[0] for name in modules} & set(HOUSE)
    assert folders <= ALLOWED[relative.parts[0]], f"{relative} imports {folders}"
    modules = imports(TypesDropped().visit(tree))
    if "ray" in {name.split(".")[0] for name in modules}:
        assert relative.parts[0] == "jobs" or str(relative) == "pipeline/engine.py"
    if relative.parts[0] == "storage" and "torch" in {name.split(".")[0] for name in modules}:
        assert relative.parts[1] == "codecs" or relative.name in {"stream.py", "gather.py"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 300, "a file over 300 lines answers more than one question"
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "the first docstring line says which question the file answers"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            assert lines <= 50, f"{node.name} has {lines} lines"
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Name):
            assert node.exc.id in {"error", "reason"}, f"line {node.lineno}: raise without a message"

"""Everything public says what it is, in one dialect, and its examples give what they show."""

from __future__ import annotations

import ast
import re
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "gnfast"
Definition = ast.FunctionDef | ast.ClassDef


def definitions(node: ast.Module | ast.ClassDef, prefix: str = "") -> list[tuple[str, Definition]]:
    """The public functions and classes of a module, and the public methods and properties of its classes."""
    found: list[tuple[str, Definition]] = []
    for child in node.body:
        if isinstance(child, Definition) and not child.name.startswith("_"):
            found.append((prefix + child.name, child))
            if isinstance(child, ast.ClassDef):
                found += definitions(child, f"{prefix}{child.name}.")
    return found


MODULES = sorted(PACKAGE.rglob("*.py"))
PUBLIC = [(path, name, node) for path in MODULES for name, node in definitions(ast.parse(path.read_text()))]


def parameters(node: Definition) -> set[str]:
    """The arguments of a function, of a class' `__init__`, or the fields of a dataclass."""
    if isinstance(node, ast.FunctionDef):
        every = node.args
        found = [*every.posonlyargs, *every.args, *every.kwonlyargs, every.vararg, every.kwarg]
        return {argument.arg for argument in found if argument}
    made = [
        child for child in node.body if isinstance(child, ast.FunctionDef) and child.name in ("__init__", "__new__")
    ]
    typed = {
        c.target.id: ast.unparse(c.annotation)
        for c in node.body
        if isinstance(c, ast.AnnAssign) and isinstance(c.target, ast.Name)
    }
    fields = {name for name, kind in typed.items() if not kind.startswith("ClassVar")}
    return set().union(*(parameters(init) for init in made), fields)


def documented(docstring: str) -> list[str]:
    """The names in the section `Args:`."""
    section = re.search(r"^Args:\n((?:    .*\n|\n)+)", docstring + "\n", re.MULTILINE)
    entries = re.findall(r"^    ((?:\*{0,2}\w+(?:, )?)+)(?: \([^)]*\))?:", section[1], re.MULTILINE) if section else []
    return [name.lstrip("*") for entry in entries for name in entry.split(", ")]


def test_everything_public_has_a_docstring() -> None:
    assert len(PUBLIC) > 900
    assert [f"{path.name} {name}" for path, name, node in PUBLIC if not ast.get_docstring(node)] == []


def test_first_lines_end_in_a_full_stop() -> None:
    firsts = {f"{path.name} {name}": (ast.get_docstring(node) or "").split("\n")[0] for path, name, node in PUBLIC}
    assert {name: first for name, first in firsts.items() if not first.endswith(".")} == {}


def test_documented_arguments_exist() -> None:
    wrong = {
        f"{path.name} {name}": unknown
        for path, name, node in PUBLIC
        if (known := parameters(node)) and (unknown := set(documented(ast.get_docstring(node) or "")) - known)
    }
    assert wrong == {}


def test_unknown_arguments_are_caught() -> None:
    node = ast.parse('def f(a, b, *c):\n    """One.\n\n    Args:\n        a, b: Two.\n        d: Three.\n    """')
    ((_, function),) = definitions(node)
    assert documented(ast.get_docstring(function) or "") == ["a", "b", "d"] and parameters(function) == {"a", "b", "c"}

"""Everything public says what it is, in one dialect, and its examples give what they show."""

from __future__ import annotations

import ast
import doctest
import re
from pathlib import Path

import documents
import pytest

import gnfast
from gnfast.interop import BRIDGES

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


def every_docstring(path: Path) -> list[str]:
    """Private definitions' and modules' docstrings, too."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    return [ast.get_docstring(node) or "" for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds)]


def test_docstrings_begin_with_a_noun_or_an_imperative() -> None:
    begun = re.compile(r"(Of|What|Those|Where|That|Whose) ")
    rest = [path for path in MODULES if path.parent.name != "study"]  # words of studies follow
    assert [text.split("\n")[0] for path in rest for text in every_docstring(path) if begun.match(text)] == []
    assert begun.match("What the layers have in common.")


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


EXAMPLES = [(path, name, node) for path, name, node in PUBLIC if ">>>" in (ast.get_docstring(node) or "")]


def test_the_main_functions_have_examples() -> None:
    assert len(EXAMPLES) >= 35


@pytest.mark.parametrize(("path", "name", "node"), EXAMPLES, ids=[f"{path.stem}-{name}" for path, name, _ in EXAMPLES])
def test_an_example_gives_what_it_shows(path: Path, name: str, node: Definition) -> None:
    docstring = ast.get_docstring(node) or ""
    if "import torch" in docstring:
        pytest.importorskip("torch")
    test = doctest.DocTestParser().get_doctest(docstring, {}, f"{path.name}:{name}", str(path), node.lineno)
    report: list[str] = []
    doctest.DocTestRunner(optionflags=documents.FLAGS).run(test, out=report.append)
    assert report == []


def test_everything_exported_is_in_the_reference() -> None:
    pages = (PACKAGE.parents[1] / "docs" / "api").glob("*.md")
    shown = {line.split()[1] for page in pages for line in page.read_text().splitlines() if line.startswith(":::")}
    modules = {
        "gnfast": gnfast,
        **{f"gnfast.{name}": getattr(gnfast, name) for name in ("bounds", "ensemble", "limits")},
        **{f"gnfast.interop.{name}": None for name in BRIDGES},
        "gnfast.study": None,
    }
    missing = []
    for module, loaded in modules.items():
        names = loaded.__all__ if loaded else exported(module)
        missing += [f"{module}.{name}" for name in names if f"{module}.{name}" not in shown]
    rooms = {f"gnfast.{name}" for name in ("bounds", "by_layer", "ensemble", "limits")}
    elsewhere = {*rooms, "gnfast.interop.torch.from_torch"}
    assert set(missing) - elsewhere == set()


def exported(module: str) -> list[str]:
    """`__all__` of a module that need not be importable here."""
    file = PACKAGE.joinpath(*module.split(".")[1:])
    source = (file / "__init__.py" if file.is_dir() else file.with_suffix(".py")).read_text()
    (found,) = (
        ast.literal_eval(node.value)
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    return list(found)

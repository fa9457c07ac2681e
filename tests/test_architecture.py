"""The arrows between the rooms: reads includes and imports, and fails on one that points the wrong way.

``csrc``: bind -> api -> cuda -> cpu -> algo -> core.
``src/gnfast``: cli -> paper -> study -> {ensemble, limits, spectrum, estimators} -> operators -> bounds -> networks ->
{_arrays, _checks} -> {_core, _extras}; interop may use anything and nothing uses interop.

A room is an entry of the package, folder or file. An arrow may skip rooms, never climb. Rooms of one height may use
each other as long as no circle results, neither of rooms nor of files: imports for a type checker count. What is
imported inside a function is an extra.

No decision reads words that are meant for people: an error's, a reason's, or the name of a class.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LINES = 500

CPP_ROOMS = {
    "bind": {"api", "cpu", "cuda", "algo", "core"},
    "api": {"cpu", "cuda", "algo", "core"},
    "cpu": {"algo", "core"},
    "cuda": {"cpu", "algo", "core"},  # the LAPACK of the host
    "algo": {"core"},
    "core": set(),
}
# What a line may mention, and the only rooms where it may: first match of a header or a directive.
CPP_ONLY_IN = {
    "Python": (re.compile(r'#\s*include\s*[<"](pybind11/|Python\.h|numpy/)'), {"bind"}),
    "CUDA": (re.compile(r'#\s*include\s*[<"](cuda|cublas|cusolver|curand|nvrtc|thrust/|cub/)'), {"cuda"}),
    "BLAS": (re.compile(r'#\s*include\s*[<"](\w*blas|lapack)\w*\.h(pp)?[>"]', re.IGNORECASE), {"cpu", "cuda"}),
    "OpenMP": (re.compile(r"#\s*include\s*<omp\.h>|#\s*pragma\s+omp"), {"cpu"}),
}

# What a line of csrc may ask, and the only file that may: whoever else asks should have got the answer.
CPP_ONLY_BY = {
    "of what kind a layer is": (r"\b(get_if|holds_alternative)\b", "algo/layers/layer.hpp"),
    "whether a network is a chain": (r"\.is_chain\(", "algo/jacobian/jacobian_for.hpp"),
}

PYTHON_HEIGHTS = {
    "__main__": 9,
    "cli": 8,
    **dict.fromkeys(("study", "paper"), 7),
    **dict.fromkeys(("ensemble", "limits", "spectrum", "estimators"), 6),
    "operators": 5,
    "bounds": 4,
    "networks": 3,
    **dict.fromkeys(("_runtime", "datasets", "data_files", "factors", "hessians", "losses", "_files", "_vectors"), 2),
    **dict.fromkeys(("_arrays", "_checks", "_groups", "_memory", "_results", "thresholds", "protocol"), 1),
    **dict.fromkeys(("_core", "_extras"), 0),
}
ROOT_ROOM, INTEROP = "__init__", "interop"
MAY_USE_ROOT = {"__main__", "cli", INTEROP}
HARD_DEPENDENCIES = {"numpy", "scipy"}

WORDS = {"reason", "message", "note"}  # variables and attributes that hold prose
TOLD = WORDS | {"words", "notes", "args", "excluded"}  # attributes that do
CLASS_NAMES = {"__name__", "__qualname__", "__module__"}
READING = {"startswith", "endswith", "find", "rfind", "index", "count", "match", "search", "fullmatch", "findall"}
# Files and functions that must read the words of others, which have no class for what they tell.
READERS_OF_OTHERS = {("interop/_probes.py", "raise_of_memory")}  # the allocator of PyTorch for the CPU


# ---------------------------------------------------------------- C++
def cpp_faults(csrc: Path) -> list[str]:
    found = []
    for path in sources(csrc, "hpp", "cpp", "h", "cu", "cuh"):
        room = path.relative_to(csrc).parts[0]
        if room not in CPP_ROOMS:
            found.append(f"{path}: {room} is not a room of csrc")
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            where = f"{path.relative_to(csrc)}:{number}"
            included = re.match(r'\s*#\s*include\s*"([^"]+)"', line)
            target = resolve(included[1], path, csrc) if included else None
            if target is not None:
                other = target.relative_to(csrc).parts[0]
                if other != room and other not in CPP_ROOMS[room]:
                    found.append(f"{where}: {room} must not include {other} ({included[1]})")
                continue
            for topic, (pattern, rooms) in CPP_ONLY_IN.items():
                if pattern.search(line) and room not in rooms:
                    found.append(f"{where}: {topic} has no place in {room} ({line.strip()})")
            for question, (asked, owner) in CPP_ONLY_BY.items():
                if re.search(asked, line) and path.relative_to(csrc).as_posix() != owner:
                    found.append(f"{where}: {question} is asked by {owner} alone ({line.strip()})")
    return found


def resolve(included: str, path: Path, csrc: Path) -> Path | None:
    """The file of csrc that a quoted include means, beside the file that includes it or below csrc."""
    for base in (path.parent, csrc):
        candidate = (base / included).resolve()
        if candidate.is_file() and candidate.is_relative_to(csrc.resolve()):
            return csrc / candidate.relative_to(csrc.resolve())
    return None


# ---------------------------------------------------------------- Python
def python_faults(package: Path) -> list[str]:
    found: list[str] = []
    rooms: dict[str, set[str]] = {}
    files: dict[str, set[str]] = {}
    for path in sources(package, "py", "pyi"):
        relative = path.relative_to(package).with_suffix("")
        room = relative.parts[0]
        if room not in PYTHON_HEIGHTS and room not in (ROOT_ROOM, INTEROP):
            found.append(f"{relative}: {room} has no height; give it one in PYTHON_HEIGHTS")
            continue
        for line, module, when in imports(path, package):
            where = f"{path.relative_to(package)}:{line}"
            top, *inner = module.split(".")
            if top != package.name:
                found += foreign_faults(where, room, top, when)
                continue
            other = inner[0] if inner else ROOT_ROOM
            rooms.setdefault(room, set()).add(other)
            files.setdefault(relative.as_posix(), set()).add(file_of(package, inner))
            if fault := arrow_fault(room, other):
                found.append(f"{where}: {fault}")
            elif when == "called":
                found.append(f"{where}: {module} is imported inside a function, which is for extras")
    return found + circle_faults(rooms) + circle_faults(files)


def file_of(package: Path, inner: list[str]) -> str:
    return "/".join([*inner, ROOT_ROOM] if package.joinpath(*inner).is_dir() else inner)


def arrow_fault(room: str, other: str) -> str:
    if other == room:
        return ""
    if other == INTEROP:
        return f"{room} must not import interop: nothing does"
    if other == ROOT_ROOM:
        return "" if room in MAY_USE_ROOT else f"{room} must import the module it needs, not the whole package"
    if room == "bounds" and other == "_core":
        return "bounds must not import the compiled core"
    if other not in PYTHON_HEIGHTS:
        return f"{other} has no height; give it one in PYTHON_HEIGHTS"
    if room in PYTHON_HEIGHTS and PYTHON_HEIGHTS[other] > PYTHON_HEIGHTS[room]:
        return f"{room} must not import {other}, which stands above it"
    return ""


def foreign_faults(where: str, room: str, top: str, when: str) -> Iterator[str]:
    extra = top not in sys.stdlib_module_names and top not in HARD_DEPENDENCIES
    if not extra and when == "called":
        yield f"{where}: {top} is imported inside a function, which is for extras"
    elif top == "cupy" and room != "_arrays":
        yield f"{where}: only _arrays tells numpy from cupy"
    elif extra and when == "import" and room != INTEROP:
        yield f"{where}: {top} is an extra; import it in the function that needs it"
    elif extra and room == "bounds":
        yield f"{where}: bounds uses NumPy and SciPy only, not {top}"


def circle_faults(graph: Mapping[str, Iterable[str]]) -> list[str]:
    inner = {room: set(others) - {room, ROOT_ROOM} for room, others in graph.items() if room != ROOT_ROOM}
    try:
        TopologicalSorter(inner).prepare()
    except CycleError as error:
        return [f"a circle of imports: {' -> '.join(error.args[1])}"]
    return []


def imports(path: Path, package: Path) -> Iterator[tuple[int, str, str]]:
    """(line, absolute module, when), ``from package import module`` names the module.

    When: "import" if importing the file runs it, "called" inside a function, "typing" for a type checker alone.
    """
    tree = ast.parse(path.read_text(), str(path))
    postponed = {}
    for node in ast.walk(tree):
        function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if function or is_type_checking(node):
            postponed |= {id(child): "called" if function else "typing" for child in ast.walk(node)}
    above = (package.name, *path.relative_to(package).parent.parts)
    for node in ast.walk(tree):
        when = postponed.get(id(node), "import")
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, when
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(above[: len(above) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module or "") if part)
            for alias in node.names:
                named = f"{module}.{alias.name}" if is_module(module, alias.name, package) else module
                yield node.lineno, named, when


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def is_module(module: str, name: str, package: Path) -> bool:
    if module == package.name and name in PYTHON_HEIGHTS:
        return True
    folder = package.parent.joinpath(*module.split("."))
    return any((folder / entry).exists() for entry in (f"{name}.py", f"{name}.pyi", name))


def sources(folder: Path, *suffixes: str) -> list[Path]:
    return sorted(path for suffix in suffixes for path in folder.rglob(f"*.{suffix}"))


def length_faults(root: Path) -> list[str]:
    suffixes = ("py", "pyi", "hpp", "cpp", "h", "cu", "cuh")
    paths = [path for room in ("csrc", "src", "tests", "benchmarks") for path in sources(root / room, *suffixes)]
    lengths = {path: len(path.read_text().splitlines()) for path in paths}
    return [
        f"{path.relative_to(root)}: {count} lines, {LINES} at most" for path, count in lengths.items() if count > LINES
    ]


# ---------------------------------------------------------------- decisions
def prose_faults(package: Path) -> list[str]:
    found = []
    for path in sources(package, "py"):
        relative = path.relative_to(package).as_posix()
        for name, function in functions(ast.parse(path.read_text(), str(path))):
            if (relative, name) not in READERS_OF_OTHERS:
                found += [f"{relative}:{line}: a decision reads {what}" for line, what in read_words(function)]
    return sorted(set(found))


def class_faults(package: Path) -> list[str]:
    """An operator answers for itself: solvers and estimators do not ask which of ours it is."""
    ours = {
        node.name
        for path in sources(package / "operators", "py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base) != "Protocol" for base in node.bases)
    } - {"SymmetricOperator", "BlockOperator"}
    return [
        f"{path.relative_to(package)}:{node.lineno}: asks whether it is a {part.id}, which should answer for itself"
        for room in ("spectrum", "estimators")
        for path in sources(package / room, "py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and is_named(node.func, {"isinstance", "issubclass"})
        for part in ast.walk(node.args[1])
        if isinstance(part, ast.Name) and part.id in ours
    ]


def functions(tree: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node


def read_words(function: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, what is read) of each comparison with words, and of each search in them."""
    errors = {node.name for node in ast.walk(function) if isinstance(node, ast.ExceptHandler) and node.name}
    told: set[str] = set()  # variables that hold an error's words
    assigned = [node for node in ast.walk(function) if isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr)]
    for _ in assigned:  # as often as it takes for words to be handed from one to the next
        for node in assigned:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if node.value is not None and prose(node.value, errors, told):
                told |= {target.id for target in targets if isinstance(target, ast.Name)}
    for node in ast.walk(function):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            literal = any(
                isinstance(side, ast.Constant) and isinstance(side.value, str) and side.value for side in sides
            )
            inside = any(isinstance(op, ast.In | ast.NotIn) for op in node.ops)
            held = sides[1:] if inside else sides
            if not (inside or literal):
                continue
            for side in held:
                if what := prose(side, errors, told) or (class_name(side) if literal else ""):
                    yield node.lineno, what
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in READING:
            for side in (node.func.value, *node.args):
                if what := prose(side, errors, told):
                    yield node.lineno, what


def prose(node: ast.AST, errors: set[str], told: set[str]) -> str:
    """What words are in an expression; empty if there are none."""
    for part in ast.walk(node):
        if isinstance(part, ast.Name) and part.id in told | WORDS:
            return f"the words of {part.id}"
        if isinstance(part, ast.Attribute) and part.attr in TOLD and not is_named(part.value, {"node", "size", "self"}):
            return f"the words of .{part.attr}"
        if isinstance(part, ast.Subscript) and isinstance(part.slice, ast.Constant) and part.slice.value in TOLD:
            return f"the words of [{part.slice.value!r}]"
        shown = isinstance(part, ast.Call) and is_named(part.func, {"str", "repr", "format"})
        if (shown or isinstance(part, ast.FormattedValue)) and any(
            is_named(x, errors) for x in ast.iter_child_nodes(part)
        ):
            return "the words of an error"
    return ""


def class_name(node: ast.AST) -> str:
    """Whether an expression is the name of a class."""
    for part in ast.walk(node):
        if isinstance(part, ast.Attribute) and part.attr in CLASS_NAMES and not is_module_name(part):
            return f"the name of a class, {ast.unparse(part)}"
    return ""


def is_module_name(node: ast.Attribute) -> bool:
    """Whether it tells which library arrays are of: xp.__name__, xp a module."""
    owner = node.value
    return node.attr == "__name__" and ("xp" in (getattr(owner, "id", ""), getattr(owner, "attr", "").lstrip("_")))


def is_named(node: ast.AST, names: set[str]) -> bool:
    return isinstance(node, ast.Name) and node.id in names


def what_faults(csrc: Path) -> list[str]:
    """Only what hands an error to Python reads what it says."""
    return [
        f"{path.relative_to(csrc)}:{number}: the words of an error are read outside of bind"
        for path in sources(csrc, "hpp", "cpp", "h", "cu", "cuh")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(r"[.>]what\(\)", line) and path.relative_to(csrc).parts[0] != "bind"
    ]


# ---------------------------------------------------------------- the house as it stands
def test_csrc_arrows_point_downwards() -> None:
    assert sources(ROOT / "csrc", "hpp", "cpp"), "no sources found"
    assert cpp_faults(ROOT / "csrc") == []


def test_python_arrows_point_downwards() -> None:
    assert sources(ROOT / "src" / "gnfast", "py"), "no sources found"
    assert python_faults(ROOT / "src" / "gnfast") == []


def test_no_file_is_too_long() -> None:
    assert length_faults(ROOT) == []


def test_no_decision_reads_prose() -> None:
    assert prose_faults(ROOT / "src" / "gnfast") == []
    assert what_faults(ROOT / "csrc") == []


def test_no_solver_asks_for_the_class_of_an_operator() -> None:
    assert class_faults(ROOT / "src" / "gnfast") == []


def test_oracles_do_not_use_what_they_check() -> None:
    used = {module.split(".")[0] for _, module, _ in imports(ROOT / "tests" / "oracles.py", ROOT / "tests")}
    assert "gnfast" not in used


# ---------------------------------------------------------------- and the test can fail
@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("core/types.hpp", '#include "algo/network.hpp"', "core must not include algo"),
        ("core/types.hpp", '#include "../algo/network.hpp"', "core must not include algo"),
        ("algo/gram.hpp", '#include "cpu/blas.hpp"', "algo must not include cpu"),
        ("cpu/backend.hpp", '#include "cuda/backend.hpp"', "cpu must not include cuda"),
        ("api/engine.cpp", '#include "bind/module.hpp"', "api must not include bind"),
        ("core/types.hpp", "#include <cuda_runtime.h>", "CUDA has no place in core"),
        ("cpu/backend.hpp", "#  include <cublas_v2.h>", "CUDA has no place in cpu"),
        ("core/types.hpp", "#include <cblas.h>", "BLAS has no place in core"),
        ("core/types.hpp", "#include <Python.h>", "Python has no place in core"),
        ("api/engine.cpp", "#include <pybind11/numpy.h>", "Python has no place in api"),
        ("algo/gram.hpp", "#pragma omp parallel for", "OpenMP has no place in algo"),
        ("utils/misc.hpp", "", "utils is not a room"),
        ("algo/gram.hpp", "if (std::get_if<Dense>(&layer)) f();", "of what kind a layer is"),
        ("algo/gram.hpp", "if (network_.is_chain()) f();", "whether a network is a chain"),
    ],
)
def test_planted_include_is_caught(tmp_path: Path, name: str, text: str, fault: str) -> None:
    for file in ("algo/network.hpp", "cpu/blas.hpp", "cuda/backend.hpp", "bind/module.hpp"):
        write(tmp_path / file, "")
    assert cpp_faults(tmp_path) == []
    write(tmp_path / name, f"// first line\n{text}\n")
    faults = cpp_faults(tmp_path)
    assert len(faults) == 1
    assert fault in faults[0]


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("networks.py", "from gnfast.operators import GaussNewton", "networks must not import operators"),
        ("networks.py", "from gnfast import operators", "networks must not import operators"),
        ("networks.py", "from . import operators", "networks must not import operators"),
        ("networks.py", "def f():\n    import gnfast.operators", "networks must not import operators"),
        ("_checks.py", "from .networks import Network", "_checks must not import networks"),
        ("bounds/linear.py", "from gnfast import _core", "bounds must not import the compiled core"),
        ("bounds/linear.py", "from .._core import Network", "bounds must not import the compiled core"),
        ("bounds/linear.py", "def f():\n    import torch", "bounds uses NumPy and SciPy only"),
        ("spectrum.py", "from gnfast.study import Study", "spectrum must not import study"),
        ("study/runner.py", "import gnfast as gn", "study must import the module it needs"),
        ("study/runner.py", "from gnfast import cond", "study must import the module it needs"),
        ("cli.py", "from gnfast.interop import torch", "nothing does"),
        ("__init__.py", "from gnfast.interop.torch import from_torch", "nothing does"),
        ("study/figures.py", "import matplotlib", "matplotlib is an extra"),
        ("networks.py", "def f():\n    import cupy", "only _arrays tells numpy from cupy"),
        ("helpers.py", "", "helpers has no height"),
        ("limits/deep.py", "from gnfast.spectrum import cond", "circle"),
        ("study/runner.py", "from gnfast.study import Study", "circle"),
        ("study/jobs.py", "from .workers import Pool", "circle"),
        ("study/jobs.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from . import workers", "circle"),
        ("study/jobs.py", "def f():\n    from gnfast.spectrum import cond", "inside a function"),
        ("study/jobs.py", "class C:\n    def f(self):\n        import math", "math is imported inside a function"),
        ("study/jobs.py", "async def f():\n    from scipy import linalg", "scipy is imported inside a function"),
    ],
)
def test_planted_import_is_caught(tmp_path: Path, name: str, text: str, fault: str) -> None:
    package = tmp_path / "gnfast"
    for file in ("__init__.py", "_core.pyi", "operators.py", "study/__init__.py", "interop/__init__.py"):
        write(package / file, "import numpy\n")
    write(package / "limits/__init__.py", "")
    write(package / "bounds/__init__.py", "from __future__ import annotations\nimport math\nimport scipy.linalg\n")
    write(package / "study/__init__.py", "from gnfast.study.runner import run\n")
    write(package / "study/runner.py", "def f():\n    import matplotlib\n")
    write(package / "study/workers.py", "from gnfast.study import jobs\n")
    write(package / "study/jobs.py", "import math\n")
    write(package / "interop/torch.py", "import torch\nimport gnfast as gn\n")
    write(package / "spectrum.py", "from gnfast import _core, bounds, limits, operators\n")
    write(package / "_arrays.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import cupy\n")
    assert python_faults(package) == []
    write(package / name, f"{text}\n")
    faults = python_faults(package)
    assert len(faults) == 1
    assert fault in faults[0]


CAUGHT = "def f(x):\n    try:\n        x()\n    except ValueError as error:\n        "


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (CAUGHT + "return 'not positive definite' in str(error)", "an error"),
        (CAUGHT + "return 'saved state' not in f'{error}'", "an error"),
        (CAUGHT + "return error.args[0] == 'no'", ".args"),
        (CAUGHT + "return str(error).startswith('no')", "an error"),
        (
            CAUGHT + "text = str(error).strip()\n        first = text.splitlines()[0]\n        return 'no' in first",
            "first",
        ),
        (CAUGHT + "import re\n        return re.search('no', repr(error))", "an error"),
        ("def f(info):\n    return info.reason == 'interrupted'", ".reason"),
        ("def f(raw):\n    return raw['reason'] != 'interrupted'", "'reason'"),
        ("def f(reason):\n    if reason.startswith('its J'):\n        return 1", "reason"),
        ("def f(x):\n    return type(x).__name__ == 'Gram'", "the name of a class"),
        ("class C:\n    def f(self, x):\n        return 'torch.' in type(x).__qualname__", "the name of a class"),
    ],
)
def test_planted_decision_from_prose_is_caught(tmp_path: Path, text: str, fault: str) -> None:
    write(
        tmp_path / "operators.py",
        CAUGHT + "raise TypeError(f'no: {error}') from error\ndef g(found):\n    return found.reason or 'none'\n",
    )
    assert prose_faults(tmp_path) == []
    write(tmp_path / "study" / "jobs.py", f"{text}\n")
    faults = prose_faults(tmp_path)
    assert len(faults) == 1
    assert fault in faults[0]


def test_planted_question_for_a_class_is_caught(tmp_path: Path) -> None:
    write(tmp_path / "operators" / "gram.py", "class Gram(SymmetricOperator): ...\nclass Origin(Protocol): ...\n")
    write(tmp_path / "spectrum" / "eigen.py", "def f(x):\n    return isinstance(x, SymmetricOperator | str)\n")
    assert class_faults(tmp_path) == []
    write(tmp_path / "estimators" / "systems.py", "def f(x):\n    return isinstance(x, int | Gram)\n")
    assert [fault.split(": ")[0] for fault in class_faults(tmp_path)] == ["estimators/systems.py:2"]


def test_planted_read_of_what_is_caught(tmp_path: Path) -> None:
    write(tmp_path / "bind" / "module.cpp", "PyErr_SetString(kind, error.what());\n")
    assert what_faults(tmp_path) == []
    write(tmp_path / "algo" / "cg.hpp", 'if (std::strstr(error.what(), "definite")) return;\n')
    assert [fault.split(": ")[0] for fault in what_faults(tmp_path)] == ["algo/cg.hpp:1"]


def test_planted_long_file_is_caught(tmp_path: Path) -> None:
    write(tmp_path / "csrc" / "core" / "long.hpp", "\n" * (LINES + 1))
    write(tmp_path / "tests" / "short.py", "\n" * LINES)
    assert [fault.split(":")[0] for fault in length_faults(tmp_path)] == ["csrc/core/long.hpp"]


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)

"""Imports inside the package run only downward, from floor to floor."""

import ast
from pathlib import Path

import pytest

import sklrp

PACKAGE = Path(sklrp.__file__).parent
FLOORS = [
    "_version",
    "_files",
    "modules",
    "rules",
    "composites",
    "propagation",
    "classifiers",
    "transformer",
    "persistence",
    "sklrp",
    "cli",
    "__main__",
]
BESIDE = {
    "_checks",
    "_frame",
    "_models",
    "_network_cache",
    "_streams",
    "_sklearn",
    "_skorch",
    "_torch",
    "datasets",
    "diagnostics",
    "drawing",
    "geo",
    "metrics",
    "plotting",
    "preprocessing",
}  # know of no network
COMMON = {"_files", "rules", "composites"}  # which anything may use
FILES = sorted(PACKAGE.rglob("*.py"))


def module_of(file):
    """Name the floor of a file; all files of a subpackage are on its floor."""
    return file.relative_to(PACKAGE).with_suffix("").parts[0].replace("__init__", "sklrp")


def imported_modules(source, package=("sklrp",)):
    """Yield the modules of sklrp that a file in `package` imports, "sklrp" for sklrp itself."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            base = [*base, *(node.module.split(".") if node.module else ())]
            names += [[*base, alias.name] for alias in node.names]
    for name in (name for name in names if name[0] == "sklrp"):
        yield name[1] if len(name) > 1 and name[1] in {*FLOORS, *BESIDE} else "sklrp"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_run_downward(file):
    module = module_of(file)
    assert module in {*FLOORS, *BESIDE}, f"give {file.name} a floor in FLOORS, or put it in BESIDE"
    allowed = {module, *BESIDE, *COMMON} if module in BESIDE else {module, *BESIDE}
    if module in FLOORS:
        allowed |= set(FLOORS[: FLOORS.index(module)])
    package = ("sklrp", *file.relative_to(PACKAGE).parts[:-1])
    assert set(imported_modules(file.read_text(encoding="utf-8"), package)) <= allowed


@pytest.mark.parametrize(
    ("source", "modules"),
    [
        ("import numpy, sklrp.rules\nfrom sklearn import base", ["rules"]),
        ("from .rules import Zero, Flat", ["rules", "rules"]),
        ("from . import rules, explain", ["rules", "sklrp"]),
        ("def f():\n    from sklrp import datasets, Zero", ["datasets", "sklrp"]),
        ("import sklrp", ["sklrp"]),
    ],
)
def test_imports_are_found(source, modules):
    assert list(imported_modules(source)) == modules

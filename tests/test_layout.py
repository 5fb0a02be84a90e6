"""The house rules of the package's files: floors, circles, names, and what each file is for.

A test of our own and not import-linter, whose contracts see packages as wholes: a circle among
files of several packages is none to it, and it knows nothing of names and docstrings.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

import sklrp
from tests.helpers.imports import circles, find_files, import_graph

# From the top floor down. A file may import from any floor below its own, and from the files of
# its own package, but not from its neighbours on the same floor.
FLOORS = [
    "__main__",
    "cli",
    "sklrp",  # the __init__ of the package, which imports what users ask for
    "_public",  # what users import
    "plotting",  # re-exports all displays, those of the diagnostics too
    "diagnostics persistence",
    "drawing transformer",
    "_feature_groups classifiers metrics",
    "_frame datasets",
    "geo",
    "propagation skill",
    "_kept _network_cache composites keras",
    "_models _value_range modules preprocessing rules",
    "_constraints _model_parts",
    "_keywords",
    "_rows",
    "_checks _matching _memory _overlaps _quick_images _random_stream _sample_axes _signals",
    "_sample_times _sklearn _skorch _stored _streams _torch _version _warnings _workers",
    "_coordinate_marks _files _missing _outputs",
    "_copies _devices _numbers",
    "_wording",
]
# Names that several files define, with the reason.
SHARED_NAMES = {
    "main": "of a process, which takes signals, and of the command line in any",
    "explain": "of arrays, of gridded fields, and the command: one verb, one order of arguments",
    "diagnose": "the function and the command of that name",
    "split": "the formula and its shortcut, which return the same",
    "gather": "the formula and its shortcut, which return the same",
}


def floors_broken(graph):
    """Return the imports that do not go down, as ``importing > imported``."""
    floor = {name: i for i, names in enumerate(reversed(FLOORS)) for name in names.split()}

    def unit(module):
        return module.split(".")[1] if "." in module else module

    assert set(map(unit, graph)) == set(floor), "give every file a floor, and take away empty ones"
    return {
        f"{module} > {target}"
        for module, targets in graph.items()
        for target in targets
        if unit(module) != unit(target) and floor[unit(module)] <= floor[unit(target)]
    }


def names_of_two_files(files):
    return {
        name
        for name in {file.name for file in files.values()} - {"__init__.py"}
        if sum(file.name == name for file in files.values()) > 1
    }


def functions_of_two_files(files):
    """Return the functions that stand at the top of more than one file."""
    places = defaultdict(set)
    for module, file in files.items():
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef):
                places[node.name].add(module)
    return {name for name, modules in places.items() if len(modules) > 1}


def says_too_little(files):
    """Return the modules that do not say in two sentences what they are for and who calls them."""
    texts = {
        module: ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        for module, file in files.items()
    }
    return {
        module for module, text in texts.items() if len(re.findall(r"[.?!](?=\s|$)", text)) < 2
    }


FILES = find_files(Path(sklrp.__file__).parent)


def test_no_circles_and_imports_run_downward():
    graph = import_graph(FILES)
    assert not circles(graph)
    assert not floors_broken(graph)


def test_the_map_in_contributing_has_every_file_of_the_top():
    text = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    names = [name.replace("sklrp", "__init__") for name in " ".join(FLOORS).split()]
    assert not [n for n in names if f"`{n}.py`" not in text and f"`{n}/`" not in text]


def test_names_are_of_one_file():
    assert not names_of_two_files(FILES)
    assert functions_of_two_files(FILES) == set(SHARED_NAMES)


def test_files_say_what_they_are_for():
    assert not says_too_little(FILES)


@pytest.fixture
def plant(tmp_path):
    """Return a function that writes files into a small package, which has no other fault."""
    said = '"""What this is for. Who calls it."""\n'
    package = tmp_path / "sklrp"
    names = " ".join(FLOORS).split()
    for name in names:
        file = package / ("__init__.py" if name == "sklrp" else f"{name}.py")
        file.parent.mkdir(exist_ok=True)
        file.write_text(said)

    def write(**sources):
        for name, source in sources.items():
            file = package / f"{name.replace('__', '/') if name[0] != '_' else name}.py"
            file.parent.mkdir(exist_ok=True)
            file.write_text(said + source)
        return find_files(package)

    return write


@pytest.mark.parametrize(
    "source",
    [
        "import sklrp.cli",
        "from .cli import main",
        "from . import cli as c",
        "def f():\n    from sklrp import rules, cli",
        "if TYPE_CHECKING:\n    from sklrp.cli import main",
        "from sklrp.geo import x",  # beside it on the way down, but above
    ],
)
def test_imports_that_go_up_are_found(plant, source):
    assert not floors_broken(import_graph(plant()))
    target = "sklrp.geo" if "geo" in source else "sklrp.cli"
    assert floors_broken(import_graph(plant(rules=source))) == {f"sklrp.rules > {target}"}


def test_imports_of_a_neighbour_and_of_the_package_itself_are_found(plant):
    files = plant(metrics="from sklrp import classifiers", geo="from sklrp import explain")
    assert floors_broken(import_graph(files)) == {
        "sklrp.metrics > sklrp.classifiers",
        "sklrp.geo > sklrp",
    }


def test_circles_are_found(plant):
    files = plant(
        geo__grid="def f():\n    from .cells import x", geo__cells="from sklrp.geo import grid"
    )
    assert circles(import_graph(files)) == [("sklrp.geo.cells", "sklrp.geo.grid")]
    assert not floors_broken(import_graph(files))


def test_twins_and_silent_files_are_found(plant):
    files = plant(geo__rules="def f(): pass", cli="def f(): pass")
    assert names_of_two_files(files) == {"rules.py"}
    assert functions_of_two_files(files) == {"f"}
    files["sklrp.cli"].write_text('"""The command line."""\n')
    assert says_too_little(files) == {"sklrp.cli"}

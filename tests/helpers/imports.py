"""The graph of a package's files: who imports whom, read from the source without importing it.

``tests/test_layout.py`` holds the package to its floors with it, and ``tests/structure.py`` prints
its figures.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path


def find_files(package):
    """Return the files of a package by the names of their modules."""
    package = Path(package)
    files = {}
    for file in sorted(package.rglob("*.py")):
        parts = (package.name, *file.relative_to(package).with_suffix("").parts)
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return files


def imported(source, package):
    """Yield ``(module, name)`` for all that a file in `package` imports; name is None for none.

    Imports inside functions and for type checking alone count like all others.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*(above if node.level else ()), *filter(None, [node.module])])
            yield from ((base, alias.name) for alias in node.names)


def import_graph(files):
    """Return for each module the modules that its file imports, by the file that is meant.

    A name of a package that is no module of it is one of its ``__init__``.
    """
    top = min(files, key=len)
    graph = {}
    for module, file in files.items():
        package = module if file.name == "__init__.py" else module.rpartition(".")[0]
        graph[module] = set()
        for base, name in imported(file.read_text(encoding="utf-8"), package):
            target = f"{base}.{name}" if f"{base}.{name}" in files else base
            if target.split(".")[0] == top:
                while target not in files:
                    target = target.rpartition(".")[0]
                graph[module].add(target)
        graph[module].discard(module)
    return graph


def circles(graph):
    """Return the sets of modules that reach one another, each sorted."""

    @cache
    def reached(module):
        seen, ahead = set(), [module]
        while ahead:
            new = graph[ahead.pop()] - seen
            seen |= new
            ahead += new
        return frozenset(seen)

    found = {
        tuple(sorted(other for other in reached(m) if m in reached(other)))
        for m in graph
        if m in reached(m)
    }
    return sorted(found)


def heights(graph):
    """Return how many files stand on one another below each; a circle counts as one file."""
    circle_of = {module: circle for circle in circles(graph) for module in circle}

    @cache
    def height(module):
        members = circle_of.get(module, (module,))
        below = {target for member in members for target in graph[member]} - set(members)
        return 1 + max(map(height, below), default=0)

    return {module: height(module) for module in graph}

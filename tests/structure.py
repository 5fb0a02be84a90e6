"""Print figures of the structure of a checkout: ``python -m tests.structure [PATH]``.

PATH is the root of a checkout of this project, by default this one; nothing of it is imported, so
two of different ages can be compared. The floors and circles are those of files, complexity is
McCabe's as radon counts it. A line of code is neither blank nor comment nor docstring.
"""

from __future__ import annotations

import argparse
import ast
import io
import tokenize
from collections import defaultdict
from pathlib import Path

from tests.helpers.imports import circles, find_files, heights, import_graph

FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
OTHERS = {"sklearn", "skorch", "torch", "numpy", "scipy", "joblib", "matplotlib", "xarray", "dask"}


def own_nodes(function):
    """Yield the nodes of a function without those of functions inside of it."""
    ahead = list(ast.iter_child_nodes(function))
    while ahead:
        node = ahead.pop()
        yield node
        if not isinstance(node, FUNCTION):
            ahead += ast.iter_child_nodes(node)


def complexity(function):
    """Return McCabe's complexity: one, and one for each place where the course may fork."""
    count = 1
    for node in own_nodes(function):
        if isinstance(node, ast.If | ast.IfExp | ast.Assert | ast.ExceptHandler | ast.match_case):
            count += 1
        elif isinstance(node, ast.For | ast.AsyncFor | ast.While):
            count += 1 + bool(node.orelse)
        elif isinstance(node, ast.Try):
            count += bool(node.orelse)
        elif isinstance(node, ast.BoolOp):
            count += len(node.values) - 1
        elif isinstance(node, ast.comprehension):
            count += 1 + len(node.ifs)
    return count


def length(function):
    """Return the number of lines of a function without its docstring."""
    first = function.body[0]
    docstring = first if ast.get_docstring(function, clean=False) is not None else None
    n_lines = function.end_lineno - function.lineno + 1
    return n_lines - (docstring.end_lineno - docstring.lineno + 1 if docstring else 0)


def functions(tree, prefix=""):
    """Yield the name and node of all functions, methods and functions inside of them."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, FUNCTION):
            yield prefix + node.name, node
        if isinstance(node, (*FUNCTION, ast.ClassDef)):
            yield from functions(node, f"{prefix}{node.name}.")
        else:
            yield from functions(node, prefix)


def count_lines(source):
    """Return the numbers of lines of code and of lines that are nothing but comment."""
    code, comments, docstrings = set(), set(), set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            docstrings |= set(range(node.lineno, node.end_lineno + 1))
    nothing = (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments |= {token.start[0]} if token.line.lstrip().startswith("#") else set()
        elif token.type not in nothing:
            code |= set(range(token.start[0], token.end[0] + 1))
    return len(code - docstrings), len(comments)


def private_names(tree):
    """Return the private names of other libraries: imported, or asked of one of their modules."""
    modules, found = {}, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in OTHERS:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                modules[alias.asname or alias.name] = full
                if any(is_private(part) for part in full.split(".")):
                    found.add(full)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] in OTHERS:
                    modules[alias.asname or alias.name.split(".")[0]] = (
                        alias.name if alias.asname else alias.name.split(".")[0]
                    )
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            parts, value = [node.attr], node.value
            while isinstance(value, ast.Attribute):
                parts, value = [value.attr, *parts], value.value
            if isinstance(value, ast.Name) and value.id in modules:
                found.add(".".join([modules[value.id], *parts]))
    return found


def is_private(name):
    return name.startswith("_") and not name.endswith("__")


def twins(names):
    """Return the names that stand in more than one file."""
    places = defaultdict(set)
    for name, place in names:
        places[name].add(place)
    return {name: sorted(p) for name, p in sorted(places.items()) if len(p) > 1}


def print_list(title, lines):
    print(f"\n{title}: {len(lines)}")
    for line in lines:
        print(f"  {line}")


def main():
    """Print the figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.structure", description=__doc__)
    parser.add_argument("path", nargs="?", type=Path, default=Path(__file__).parents[1])
    files = find_files(parser.parse_args().path.resolve() / "sklrp")
    sources = {module: file.read_text(encoding="utf-8") for module, file in files.items()}
    trees = {module: ast.parse(source) for module, source in sources.items()}
    graph = import_graph(files)
    counted = {module: count_lines(source) for module, source in sources.items()}
    n_code, n_comments = (sum(numbers) for numbers in zip(*counted.values(), strict=True))
    n_lines = {module: len(source.splitlines()) for module, source in sources.items()}
    print(f"files: {len(files)}, lines: {sum(n_lines.values())}, of code: {n_code}")
    print(f"comment lines: {n_comments}, one to {n_code / n_comments:.0f} of code")
    print(f"floors (longest path of imports among files): {max(heights(graph).values())}")
    print_list("circles of files", [", ".join(circle) for circle in circles(graph)])
    longest = sorted(n_lines.items(), key=lambda item: -item[1])[:8]
    print_list("longest files", [f"{n} {module}" for module, n in longest])
    found = [
        (f"{module}.{name}", length(node), complexity(node))
        for module, tree in trees.items()
        for name, node in functions(tree)
    ]
    long = sorted(((n, name) for name, n, _ in found if n > 50), reverse=True)
    print_list(
        "functions above 50 lines, their docstrings apart", [f"{n} {name}" for n, name in long]
    )
    hard = sorted(((n, name) for name, _, n in found if n > 15), reverse=True)
    print_list("functions above complexity 15", [f"{n} {name}" for n, name in hard])
    basenames = ((file.name, module) for module, file in files.items())
    same = twins((name, module) for name, module in basenames if name != "__init__.py")
    print_list("names of several files", [f"{name}: {', '.join(p)}" for name, p in same.items()])
    same = twins(
        (node.name, module)
        for module, tree in trees.items()
        for node in tree.body
        if isinstance(node, FUNCTION)
    )
    print_list(
        "names of functions in several files", [f"{n}: {', '.join(p)}" for n, p in same.items()]
    )
    private = {module: sorted(private_names(tree)) for module, tree in trees.items()}
    print_list(
        "files that use private names of other libraries",
        [f"{module}: {', '.join(names)}" for module, names in private.items() if names],
    )


if __name__ == "__main__":
    main()

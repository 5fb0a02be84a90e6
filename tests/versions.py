"""Run the test suite on the oldest and on the newest versions of all dependencies.

Developers and the workflow `tests` call it from the root of a checkout, with any Python that has
uv (``pip install uv``):

    python -m tests.versions --python 3.11 --python 3.14 --set oldest --set newest -- -n 2

Each set has an environment of its own, which is removed when its tests have run. Oldest are the
minimums that pyproject.toml declares, on the oldest Python with everything else as
constraints-oldest.txt pins it, on a later one as far as there are wheels for it. Newest is what a
user gets today. At the end stands a table of versions and results; the status is 1 if a suite
failed. What stands behind ``--`` goes to pytest.

On Linux PyPI's torch brings gigabytes of GPU libraries; ``UV_TORCH_BACKEND=cpu`` takes PyTorch's
CPU builds instead.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]
OLDEST_PYTHON = "3.11"
PINS = ROOT / "constraints-oldest.txt"
SHOWN = ("numpy", "scipy", "scikit-learn", "skorch", "torch", "pandas", "xarray", "zarr")
# What old releases say of each other, not of this package: deprecated names, NumPy's own layout
# (which NumPy itself ignores), texts in zarr's newer format,
# durations in xarray.
OLD_WARNINGS = [
    "default::DeprecationWarning",
    "ignore:numpy.ndarray size changed:RuntimeWarning",
    "ignore:The codec `vlen-utf8` is:UserWarning",
    "ignore:In a future version of xarray decode_timedelta:FutureWarning",
]


def call(*command):
    """Run a command from the root of the checkout, and return what it prints."""
    return subprocess.run(command, cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE).stdout


def uv(*args):
    """Call uv, and return what it prints."""
    return call(sys.executable, "-m", "uv", "--quiet", *map(str, args))


def resolve(python, which, requirements):
    """Write the versions of a set for an interpreter, of releases that have wheels for it."""
    args = ["--resolution", "lowest-direct" if which == "oldest" else "highest"]
    version = call(python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])").strip()
    if which == "oldest" and version == OLDEST_PYTHON:
        args += ["--constraint", PINS]
    uv("pip", "compile", ROOT / "pyproject.toml", "--extra", "test", "--python", python, *args,
       "--only-binary", ":all:", "--no-header", "--no-annotate",
       "--output-file", requirements)  # fmt: skip


def install(python, which, folder):
    """Make an environment with one set of versions, and return its interpreter."""
    requirements = folder / "requirements.txt"
    uv("venv", "--python", python, folder / "env")
    binaries = folder / "env" / ("Scripts" if sys.platform == "win32" else "bin")
    interpreter = binaries / "python"
    resolve(interpreter, which, requirements)
    uv("pip", "install", "--python", interpreter, "--no-deps", "-r", requirements)
    uv("pip", "install", "--python", interpreter, "--no-deps", "--editable", ROOT)
    return interpreter


def run_suite(interpreter, args):
    """Run pytest, show what it prints, and return its status and the counts of its last line."""
    with subprocess.Popen(
        [interpreter, "-m", "pytest", *args], cwd=ROOT, text=True, stdout=subprocess.PIPE
    ) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
    counts = re.sub(r" in [\d.]+s.*|=", "", line).strip()
    return process.returncode, counts


def try_set(python, which, pytest_args):
    """Return a row of the table, and whether the suite passed."""
    start = time.monotonic()
    with TemporaryDirectory() as folder:
        interpreter = install(python, which, Path(folder).resolve())
        listed = json.loads(uv("pip", "list", "--python", interpreter, "--format", "json"))
        found = {package["name"]: package["version"] for package in listed}
        version = call(interpreter, "-c", "import platform; print(platform.python_version())")
        old = OLD_WARNINGS if which == "oldest" else []
        status, counts = run_suite(interpreter, [*(f"-W{text}" for text in old), *pytest_args])
    minutes = f"{(time.monotonic() - start) / 60:.0f} min"
    row = [version.strip(), which, *(found.get(name, "-") for name in SHOWN), counts, minutes]
    return row, status == 0


def main():
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--python", action="append", help="an interpreter, or a version that uv finds"
    )
    parser.add_argument("--set", action="append", choices=["oldest", "newest"])
    parser.add_argument("pytest_args", nargs="*", help="arguments for pytest, behind --")
    args = parser.parse_args()
    results = [
        try_set(python, which, args.pytest_args)
        for python in args.python or [sys.executable]
        for which in args.set or ["oldest", "newest"]
    ]
    header = ["Python", "set", *SHOWN, "tests", "time"]
    for row in [header, ["---"] * len(header), *(row for row, _ in results)]:
        print("|", " | ".join(row), "|")
    return 0 if all(passed for _, passed in results) else 1


if __name__ == "__main__":
    sys.exit(main())

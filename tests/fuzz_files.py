"""Random mutants of saved models: each is refused in short, or predicts finite values.

`python -m tests.fuzz_files --minutes 5 --seed 0` tries as many as there is time for;
`tests/test_hostile_files.py` tries some in every run. Bytes are flipped, cut and repeated; the
JSON and the tensors inside are changed as someone would who knows the format, checksum included.
"""

from __future__ import annotations

import argparse
import collections
import functools
import json
import random
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import sklrp
from sklrp import CNNClassifier, ESNRegressor, LSTMClassifier, MLPClassifier, RelevanceTransformer
from tests.helpers.forging import rewrite
from tests.helpers.limits import MEGABYTES, SECONDS, spending

LONGEST = 700  # characters of an error, beside the name of the file
VALUES: list[Any] = [
    None,
    True,
    0,
    -1,
    1,
    0.5,
    1e308,
    5e-324,
    10**19,
    10**400,
    "",
    "x",
    "\ud800",
    "a" * 1000,
    "../x",
    "\x1b[2J",
    [],
    [[]],
    [None] * 3,
    [1] * 1000,
    {},
    {"tuple": []},
    {"dict": []},
    {"dict": [[1]]},
    {"float": "nan"},
    {"float": "inf"},
    {"texts": ["str32", [10**12], []]},
    {"texts": ["object", [1], [1]]},
    {"array": "x"},
    {"tensor": "module.dense1.weight"},
    {"columns": "module.dense1.weight"},
    {"rule": ["Epsilon", {"dict": []}]},
    {"rule": ["Composite", {"dict": []}]},
    {"layer": "Linear"},
    {"scalar": ["int8", 300]},
    {"scalar": ["V10", 1]},
    {"dtype": "f8"},
    {"dtype": "O"},
    {"type": "int"},
    {"date": ["datetime64[ns]", 10**30]},
    {"moment": ["noleap", False, [1] * 7]},
    {"function": "x"},
    {"slice": [None, 10**30, "a"]},
    {"dataarray": [[], [], [], {"dict": []}]},
    {"optimizer": "adam"},
    {"class": "MLPClassifier", "params": {}, "attributes": {}},
    {"selector": ["(", None, None]},
]
DTYPES = ["f2", "f4", "f8", "i1", "i8", "u8", "?"]


@functools.cache
def saved() -> dict[str, tuple[bytes, Any]]:
    """Return the bytes of a file of each kind, and samples for what is in it."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20, 12))
    y = np.where(X[:, 0] > 0, "warm", "cold")
    short = {"max_epochs": 1, "random_state": 0}
    models = {
        "mlp": MLPClassifier((4,), **short),
        "cnn": CNNClassifier((2,), **short),
        "lstm": LSTMClassifier(3, **short),
        "pipeline": make_pipeline(StandardScaler(), MLPClassifier((4,), **short)),
        "transformer": RelevanceTransformer(MLPClassifier((4,), **short), rule="gamma"),
    }
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        for name, model in models.items():
            sklrp.save(model.fit(X, y), path)
            found[name] = (path.read_bytes(), X)
        sklrp.save(ESNRegressor(5, random_state=0).fit(X, X[:, 0]), path)
        found["esn"] = (path.read_bytes(), X)
    return found


def mutate_bytes(content: bytes, rng: random.Random) -> bytes:
    """Return a file some of whose bytes are others, are gone, or come twice."""
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(content)) if rng.random() < 0.7 else rng.randrange(8)
        length = rng.choice([1, 1, 4, 8, 100])
        part = content[place : place + length]
        new = rng.choice([bytes(len(part)), b"\xff" * len(part), b"", part * 2, rng.randbytes(8)])
        content = content[:place] + new + content[place + length :]
        content = content or b"\0"
    return content


def mutate_tree(node: Any, rng: random.Random) -> None:
    """Change one place in JSON."""
    places = list(_walk(node))
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        holder, key = rng.choice(places)
        if isinstance(holder, list) and not isinstance(key, int):
            continue
        try:
            _change(holder, key, rng, places)
        except (IndexError, KeyError):  # it is gone by an earlier change
            continue


def _change(holder: Any, key: Any, rng: random.Random, places: list[Any]) -> None:
    how = rng.randrange(6)
    if how == 0:
        del holder[key]
    elif how == 1 and isinstance(holder, dict):
        holder[rng.choice(["x", "__class__", "class", "params", "net", "dict"])] = holder.pop(key)
    elif how == 2:
        other, at = rng.choice(places)
        holder[key] = json.loads(json.dumps(other[at]))
    elif how == 3:
        tag = rng.choice(["tuple", "dict", "array", "tensor", "texts", "rule", "float"])
        holder[key] = {tag: holder[key]}
    elif how == 4 and isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
        holder[key] = holder[key] * rng.choice([-1, 0, 10**6, 10**18, 0.5])
    else:
        holder[key] = json.loads(json.dumps(rng.choice(VALUES)))


def _walk(node: Any) -> Any:
    """Yield every place in JSON, as what holds it and its key."""
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in list(items):
        yield node, key
        if isinstance(value, dict | list):
            yield from _walk(value)


def mutate_arrays(arrays: dict[str, Any], rng: random.Random) -> None:
    """Change one tensor: its values, shape, dtype, name or place."""
    name = rng.choice(sorted(arrays))
    array = arrays[name]
    how = rng.randrange(7)
    if how == 0:
        del arrays[name]
    elif how == 1:
        arrays[rng.choice(["x", f"{name}'", "../x"])] = arrays.pop(name)
    elif how == 2:
        arrays[name] = array.reshape(-1) if rng.random() < 0.5 else array[np.newaxis].copy()
    elif how == 3:
        with np.errstate(all="ignore"):
            arrays[name] = array.astype(rng.choice(DTYPES))
    elif how == 4:
        arrays[name] = array[:0].copy() if array.ndim else np.zeros((0,), array.dtype)
    elif how == 5:
        arrays[name] = np.ascontiguousarray(array.T)
    elif array.size and array.dtype.kind == "f":
        odd = np.array([np.nan, np.inf, 1e308, -1e300, 5e-324])
        with np.errstate(over="ignore"):
            array.flat[rng.randrange(array.size)] = rng.choice(odd.tolist())


def make_mutant(seed: int, path: Path) -> tuple[str, Any]:
    """Write a mutant, and return what it is of and samples for it."""
    rng = random.Random(seed)
    name = rng.choice(sorted(saved()))
    content, X = saved()[name]
    kind = rng.choice(["bytes", "tree", "tree", "tree", "arrays"])
    if kind == "bytes":
        path.write_bytes(mutate_bytes(content, rng))
        return f"{name}, {kind}", X
    change: Callable[[Any, Any], None] = lambda manifest, arrays: (  # noqa: E731
        mutate_tree(manifest, rng) if kind == "tree" else mutate_arrays(arrays, rng)
    )
    path.write_bytes(content)
    rewrite(path, change)
    return f"{name}, {kind}", X


def try_mutant(seed: int, path: Path) -> tuple[str, str]:
    """Return how a mutant was answered: "refused", "predicts", or what is wrong."""
    what, X = make_mutant(seed, path)
    answer = "predicts"
    with spending() as spent, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model = sklrp.load(path)
            ask = model.predict if hasattr(model, "predict") else model.transform
            found = np.asarray(ask(X))
            if found.dtype.kind == "f" and not np.isfinite(found).all():
                answer = "predicts values that are not finite"
        except (ValueError, TypeError) as error:  # NotFittedError is a ValueError
            answer = "refused"
            text = str(error)
            if len(text) > LONGEST + len(str(path)) or "\0" in text:
                answer = f"an error of {len(text)} characters"
        except Exception as error:
            answer = f"{type(error).__name__}: {str(error)[:200]}"
    if spent.megabytes > MEGABYTES or spent.seconds > SECONDS:
        answer = f"took {spent.megabytes:.0f} MB and {spent.seconds:.1f} s"
    return what, answer


def main() -> None:
    """Try mutants for some minutes, and print how they were answered."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0, help="of the first mutant")
    options = parser.parse_args()
    counts: collections.Counter[str] = collections.Counter()
    end, seed = time.monotonic() + 60 * options.minutes, options.seed
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mutant"
        while time.monotonic() < end:
            what, answer = try_mutant(seed, path)
            counts[answer if answer in ("refused", "predicts") else "poor"] += 1
            if answer not in ("refused", "predicts"):
                print(f"seed {seed} ({what}): {answer}", flush=True)
            seed += 1
    print(dict(counts))


if __name__ == "__main__":
    main()

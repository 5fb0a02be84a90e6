"""Draws of data with a known answer, and what `skill_map` and other tests say of each.

``python -m tests.calibration`` repeats them and makes tables of the counts; the short form in
`tests/test_calibration.py` takes parts of them. A draw makes data, trains a network on one part
and tests on the other. Its truth is by construction: the class enters the cells of `signal` alone,
so that all other cells together are independent of it, however fields are correlated.
"""

import zlib
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from scipy.signal import lfilter
from scipy.stats import false_discovery_control, ttest_ind

from sklrp import CNNClassifier, ESNClassifier, LSTMClassifier, MLPClassifier
from sklrp.datasets import make_suppressor, make_watermark, make_xor
from sklrp.diagnostics import skill_map

ALPHA = 0.05
SIZE = 16
LENGTHS = (0, 1, 2, 4, 8)  # cells over which the correlation of a field falls to 1/e
ARCHITECTURES = ("MLP", "CNN", "LSTM", "ESN")
AUTOCORRELATIONS = (0.0, 0.5, 0.85, 0.95)
HELD_OUT = (20, 50, 100, 300)
N_STATES = 10
LEVELS = np.linspace(0.025, 1, 40)  # thresholds, as shares of the largest mean |relevance|


@dataclass
class Case:
    """Data, what is held out, and which cells carry the labels (of several outputs, for each)."""

    X: np.ndarray
    y: np.ndarray
    n_train: int
    signal: np.ndarray
    places: dict = field(default_factory=dict)

    @property
    def train(self):
        return self.X[: self.n_train], self.y[: self.n_train]

    @property
    def held_out(self):
        return self.X[self.n_train :], self.y[self.n_train :]


# Data


def smooth_fields(rng, n, length, size=SIZE):
    """Return normal fields of unit variance on a torus, of correlation exp(-(d / length)²)."""
    noise = rng.standard_normal((n, size, size))
    if length == 0:
        return noise
    impulse = np.zeros((size, size))
    impulse[0, 0] = 1.0
    smooth = partial(gaussian_filter, mode="wrap", truncate=6.0)
    spread = np.linalg.norm(smooth(impulse, length / 2))
    return smooth(noise, (0, length / 2, length / 2)) / spread


def along_time(rng, noise, rho):
    """Return series of unit variance and lag-1 correlation rho, made of independent noise."""
    noise = noise * np.where(np.arange(len(noise)) == 0, 1.0, np.sqrt(1 - rho**2)).reshape(
        -1, *(1,) * (noise.ndim - 1)
    )
    return lfilter([1.0], [1.0, -rho], noise, axis=0)


def patch(size=SIZE):
    """Return the cells that the class enters: a square of a quarter of the edge, in the middle."""
    edge, mask = size // 4, np.zeros((size, size), dtype=bool)
    first = (size - edge) // 2
    mask[first : first + edge, first : first + edge] = True
    return mask


def planted(rng, length, n_train=200, n_test=100, strength=0.5, share=0.5, size=SIZE):
    """Return fields to whose patch the class adds its sign, and nothing to any other cell."""
    X, mask = smooth_fields(rng, n_train + n_test, length, size), patch(size)
    # As many of each class in both parts: few of one class would otherwise differ by draw.
    y = np.concatenate([rng.permutation(np.arange(n) < share * n) for n in (n_train, n_test)])
    X[:, mask] += strength * np.where(y, 1.0, -1.0)[:, None]
    return Case(X.astype(np.float32), y.astype(int), n_train, mask)


def without_relation(rng, length):
    """Return fields and labels that have nothing to do with them."""
    return Case(
        smooth_fields(rng, 300, length).astype(np.float32),
        rng.permutation(np.repeat([0, 1], 150)),
        200,
        np.zeros((SIZE, SIZE), dtype=bool),
    )


def in_time(rng, rho, n_runs=1, n_steps=360, size=12):
    """Return runs of fields and labels, each correlated in time, with a planted patch."""
    parts = []
    for _ in range(2 * n_runs):  # the first half to train on
        steps = n_steps // n_runs
        fields = along_time(rng, smooth_fields(rng, steps, 2, size), rho)
        index = along_time(rng, rng.standard_normal(steps), rho)
        parts.append((fields, index > 0))
    X, y = (np.concatenate(part) for part in zip(*parts, strict=True))
    mask = patch(size)
    X[:, mask] += 0.3 * np.where(y, 1.0, -1.0)[:, None]
    return Case(X.astype(np.float32), y.astype(int), n_steps, mask)


def of_package(rng, make, n_train, *, opposite="", **settings):
    """Return a data set of the package; `opposite` is the name of the patch on the right."""
    seed = int(rng.integers(2**31 - 1))
    X, y, mask = make((n_train + 200) // 2, size=SIZE, random_state=seed, **settings)
    places = {opposite: mask[:, ::-1]} if opposite else {}
    return Case(X.astype(np.float32), y, n_train, mask, places)


def four_classes(rng):
    """Return four classes, each of which is added to a patch of its own."""
    X, y = smooth_fields(rng, 600, 2), rng.permutation(np.repeat(np.arange(4), 150))
    signal = np.zeros((SIZE, SIZE), dtype=bool)
    for k in range(4):
        rows, columns = (slice(8 * i + 2, 8 * i + 5) for i in divmod(k, 2))
        X[y == k, rows, columns] += 1.0
        signal[rows, columns] = True
    return Case(X.astype(np.float32), y, 400, signal)


def values(rng, n_outputs):
    """Return values, each the mean of a patch of white noise, with noise of half its spread."""
    X = rng.standard_normal((500, SIZE, SIZE)).astype(np.float32)
    signal = np.zeros((n_outputs, SIZE, SIZE), dtype=bool)
    for k in range(n_outputs):
        signal[k, 4:8, 8 * k + 2 : 8 * k + 6] = True
    y = np.stack([X[:, mask].mean(axis=1) for mask in signal], axis=1)
    y = y / y.std() + 0.5 * rng.standard_normal(y.shape)
    return Case(X, y if n_outputs > 1 else y[:, 0], 300, signal if n_outputs > 1 else signal[0])


# Networks


def network(name, seed, size=SIZE, max_epochs=None):
    """Return an unfitted classifier that trains in a tenth of a second."""
    shared = {"random_state": seed}
    if name == "MLP":
        return MLPClassifier((16,), max_epochs=max_epochs or 15, **shared)
    if name == "CNN":
        return CNNClassifier((4,), input_shape=(1, size, size), max_epochs=10, **shared)
    shared |= {"input_shape": (size, size), "sweep": "right"}
    return (
        LSTMClassifier(12, max_epochs=15, **shared)
        if name == "LSTM"
        else ESNClassifier(60, **shared)
    )


def fit_values(X, y, seed):
    """Return a network of values, one layer of 32 units, fitted by Adam."""
    torch.manual_seed(seed)
    X, y = torch.as_tensor(X).flatten(1), torch.as_tensor(y).float().reshape(len(X), -1)
    net = torch.nn.Sequential(
        torch.nn.Flatten(),
        torch.nn.Linear(X.shape[1], 32),
        torch.nn.ReLU(),
        torch.nn.Linear(32, y.shape[1]),
    )
    optimizer = torch.optim.Adam(net.parameters(), lr=0.003, weight_decay=1e-3)
    for _ in range(15):
        for rows in torch.randperm(len(X)).split(50):
            optimizer.zero_grad()
            ((net(X[rows]) - y[rows]) ** 2).mean().backward()
            optimizer.step()
    return net


# What tests say of a draw


def counted(found, case):
    """Return how many cells were found, where something is, and where nothing is."""
    return [int(found[case.signal].sum()), int(found[~case.signal].sum())]


def ask_skill_map(model, case, seed, X=None, y=None, **settings):
    """Return the counts of `skill_map`, or why it refused."""
    X, y = (case.held_out[0], case.held_out[1]) if X is None else (X, y)
    try:
        found = skill_map(
            model, X, y, X_train=case.train[0], alpha=ALPHA, random_state=seed, **settings
        )
    except ValueError as error:
        if "too few units" not in str(error) and "fewer than two blocks" not in str(error):
            raise
        return {"refused": str(error).split(":")[0], "n_signal": int(case.signal.sum())}
    return {
        "n_signal": int(case.signal.sum()),
        "true": counted(found.true, case),
        "true_fdr": counted(found.true_fdr, case),
        "misleading": counted(found.misleading, case),
        "places": {name: int(found.true[mask].sum()) for name, mask in case.places.items()},
        "verdict": found.verdict,
        "p_skill": found.p_skill,
        "completeness": round(found.completeness, 3),
        "block_length": found.block_length,
    }


def largest_t(rows, y, rng, n_permutations=199):
    """Return where Welch's t is beyond 95 % of the largest that permuted labels give (maxT)."""
    orders = rng.permuted(np.tile(np.arange(len(y)), (n_permutations, 1)), axis=1)
    labels = np.concatenate([y[None], y[orders]]) == 1
    centred = rows - rows.mean(axis=0)
    sums, squares, n = labels @ centred, labels @ centred**2, labels.sum(axis=1, keepdims=True)
    rest, n_rest = centred.sum(axis=0) - sums, len(y) - n
    ones = (squares - sums**2 / n) / (n - 1)
    others = ((centred**2).sum(axis=0) - squares - rest**2 / n_rest) / (n_rest - 1)
    t = np.abs(sums / n - rest / n_rest) / np.sqrt(ones / n + others / n_rest)
    return t[0] >= np.quantile(t[1:].max(axis=1), 1 - ALPHA, method="higher")


def discoveries(rows, y):
    """Return the discoveries of Benjamini and Hochberg by Welch's t tests, cell by cell."""
    moves = np.ptp(rows, axis=0) > 0
    p = np.ones(rows.shape[1])
    p[moves] = ttest_ind(rows[y == 1][:, moves], rows[y == 0][:, moves], equal_var=False).pvalue
    return false_discovery_control(p) <= ALPHA


def ask_others(model, case, rng):
    """Return the counts of t tests on the data, and of what is done with relevance maps."""
    X, y = case.held_out
    rows = X.reshape(len(X), -1).astype(float)
    relevance = model.explain(X, rule="epsilon", target=1).reshape(len(X), -1).astype(float)
    size = np.abs(relevance).mean(axis=0).reshape(case.signal.shape)
    shares = size / size.max() if size.max() > 0 else size
    levels = [counted(shares >= level, case) for level in LEVELS]
    tests = {
        "t": largest_t(rows, y, rng),
        "t_fdr": discoveries(rows, y),
        "relevance_fdr": discoveries(relevance, y),
    }
    found = {name: counted(mask.reshape(case.signal.shape), case) for name, mask in tests.items()}
    return {**found, "levels": [list(kind) for kind in zip(*levels, strict=True)]}


# Draws: what makes data, trains and tests once. Each returns counts for each variant of a test.


def draw_classes(rng, make, name="MLP", others=True, max_epochs=None):
    """Draw two classes (or more), with `skill_map` beside other tests."""
    case, seed = make(rng), int(rng.integers(2**31 - 1))
    model = network(name, seed, max_epochs=max_epochs).fit(*case.train)
    found = ask_skill_map(model, case, seed)
    found["accuracy"] = round(model.score(*case.held_out), 3)
    return {"": {**found, **(ask_others(model, case, rng) if others else {})}}


def draw_values(rng, make):
    """Draw values to predict."""
    case, seed = make(rng), int(rng.integers(2**31 - 1))
    return {"": ask_skill_map(fit_values(*case.train, seed), case, seed)}


def draw_series(rng, rho):
    """Draw a series, tested with every rule of exchange, and runs, tested in groups."""
    found = {}
    for n_runs, rules in ((1, ("plain", "auto", "24")), (30, ("plain, runs", "groups"))):
        case, seed = in_time(rng, rho, n_runs=n_runs), int(rng.integers(2**31 - 1))
        model = network("MLP", seed).fit(*case.train)
        n = len(case.held_out[0])
        settings = {
            "plain": {"block_length": 1},
            "auto": {},
            "24": {"block_length": 24},
            "plain, runs": {"block_length": 1},
            "groups": {"groups": np.arange(n) // (n // n_runs)},
        }
        for rule in rules:
            found[rule] = ask_skill_map(model, case, seed, **settings[rule])
    return found


def draw_sizes(rng, name):
    """Draw one network, tested on more and more held-out samples."""
    case, seed = planted(rng, 2, n_test=max(HELD_OUT)), int(rng.integers(2**31 - 1))
    model = network(name, seed).fit(*case.train)
    X, y = case.held_out
    return {str(n): ask_skill_map(model, case, seed, X[:n], y[:n]) for n in HELD_OUT}


def draw_used(rng, length, name):
    """Draw one network, tested on 100 held-out samples and on 1000: which cells it really uses."""
    case, seed = planted(rng, length, n_test=1000), int(rng.integers(2**31 - 1))
    model = network(name, seed).fit(*case.train)
    X, y = case.held_out
    found = {str(n): ask_skill_map(model, case, seed, X[:n], y[:n]) for n in (100, 1000)}
    t = largest_t(X[:100].reshape(100, -1).astype(float), y[:100], rng)
    found["100"]["t"] = counted(t.reshape(case.signal.shape), case)
    return found


def draw_states(rng, name):
    """Draw one network and one test set, tested with other random states."""
    case, seed = planted(rng, 2), int(rng.integers(2**31 - 1))
    model = network(name, seed).fit(*case.train)
    return {str(state): ask_skill_map(model, case, state) for state in range(N_STATES)}


def _kinds():
    """Return the draws of the table of kinds of data, by name."""
    rows = {}
    for background in ("white", "correlated"):
        shared = {"n_train": 500, "background": background}
        rows |= {
            f"exclusive or, {background}": partial(of_package, make=make_xor, **shared),
            f"suppressor, {background}": partial(
                of_package, make=make_suppressor, opposite="suppressor", **shared
            ),
            f"watermark, {background}": partial(
                of_package, make=make_watermark, opposite="watermark", **shared
            ),
        }
    rows["suppressor, multiplicative, correlated"] = partial(
        of_package,
        make=make_suppressor,
        n_train=500,
        opposite="suppressor",
        mechanism="multiplicative",
        background="correlated",
        strength=1.0,
        noise=1.0,
    )
    rows = {name: partial(draw_classes, make=make, max_epochs=40) for name, make in rows.items()}
    few = partial(planted, length=2, strength=0.7, share=0.15)
    for name in ARCHITECTURES:
        rows[f"15 % in one class, {name}"] = partial(draw_classes, make=few, name=name)
    rows["four classes"] = partial(draw_classes, make=four_classes, others=False)
    rows["values"] = partial(draw_values, make=partial(values, n_outputs=1))
    rows["two outputs"] = partial(draw_values, make=partial(values, n_outputs=2))
    return rows


def make_rows():
    """Return what draws each row of the tables, by the names of table and row."""
    rows = {}
    for name in ARCHITECTURES:
        for length in LENGTHS:
            make = partial(planted, length=length)
            rows[f"planted/{length}/{name}"] = partial(draw_classes, make=make, name=name)
    rows |= {f"series/{rho}": partial(draw_series, rho=rho) for rho in AUTOCORRELATIONS}
    rows |= {f"kinds/{name}": draw for name, draw in _kinds().items()}
    rows |= {f"sizes/{name}": partial(draw_sizes, name=name) for name in ("MLP", "ESN")}
    rows |= {f"states/{name}": partial(draw_states, name=name) for name in ("MLP", "LSTM")}
    for name in ARCHITECTURES:
        for length in (0, 4, 8):
            rows[f"used/{length}/{name}"] = partial(draw_used, length=length, name=name)
    for name in ARCHITECTURES:
        for length in LENGTHS[::2]:
            make = partial(without_relation, length=length)
            rows[f"none/{length}/{name}"] = partial(draw_classes, make=make, name=name)
    return rows


ROWS = make_rows()


def draw(row, number):
    """Return what draw `number` of a row found; it depends on these two alone."""
    rng = np.random.default_rng([zlib.crc32(row.encode()), number])
    return ROWS[row](rng)

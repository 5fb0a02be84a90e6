"""Fields: sound maps of smooth fields and of the Pacific, and what their coding puts into maps.

Registers cases with land, borders, means, fill values, and samples that are correlated in time.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from sklrp import CNNClassifier, MLPClassifier
from sklrp.datasets import load_pacific_sst
from tests.helpers.planted.networks import esn
from tests.helpers.planted.registry import Case, fit, planted

SHAPE = (32, 40)


def smooth(rng, n_samples, shape=SHAPE, width=2):
    """Return smooth noise of variance 1."""
    noise = gaussian_filter(rng.standard_normal((n_samples, *shape)), (0, width, width))
    return (noise / noise.std()).astype(np.float32)


def fields(seed, uniform=False, shape=SHAPE, n_samples=300, width=2):
    """Make smooth noise plus or minus a smooth pattern, or one value, all over the field."""
    rng = np.random.default_rng(seed)
    noise = smooth(rng, n_samples, shape, width)
    pattern = gaussian_filter(rng.standard_normal(shape), 6, mode="wrap")
    pattern = np.full(shape, 0.6) if uniform else 0.5 * pattern / pattern.std()
    y = rng.permutation(np.repeat([0, 1], n_samples // 2))
    sign = np.where(y == 1, 1, -1)[:, None, None]
    return (noise + sign * pattern).astype(np.float32), y


def patch(shape=SHAPE, rows=(12, 22), columns=(28, 38)):
    """Return a mask of a rectangle."""
    mask = np.zeros(shape, dtype=bool)
    mask[slice(*rows), slice(*columns)] = True
    return mask


def with_patch(seed, strength, n_samples=300, shape=SHAPE):
    """Make smooth noise with a patch that tells the classes apart."""
    rng = np.random.default_rng(seed)
    X, mask = smooth(rng, n_samples, shape), patch(shape)
    y = rng.permutation(np.repeat([0, 1], n_samples // 2))
    X[:, mask] += strength * np.where(y == 1, 1, -1)[:, None]
    return X, y, mask


def field_cnn(**params):
    return CNNClassifier(input_shape=(1, *SHAPE), **{"max_epochs": 20, "lr": 0.002, **params})


def wide_mlp(**params):
    return MLPClassifier((64,), **{"max_epochs": 60, "lr": 0.0005, **params})


def land():
    """Return a mask of a third of the cells."""
    rows, columns = np.indices(SHAPE)
    return (rows // 7 + columns // 9) % 3 == 0


def filled(X, cells, value):
    """Return samples with one value in some of the cells, as where there is no sea."""
    X = X.copy()
    X[:, cells] = value
    return X


# Sound


@planted("fields MLP", "fact", kind="sound network", why="the pattern is learned")
def fields_mlp(seed):
    return fit(wide_mlp(), *fields(seed), seed)


@planted("fields CNN", "fact", kind="sound network", why="the pattern is learned")
def fields_cnn(seed):
    return fit(field_cnn(), *fields(seed), seed, rule="auto")


@planted("land at zero", "fact", kind="sound network", why="land is filled with the mean")
def land_at_zero(seed):
    X, y = fields(seed)
    return fit(wide_mlp(), filled(X, land(), 0.0), y, seed, true_cells=~land())


@planted(
    "MLP on a field of 4050 cells",
    "fact",
    kind="no power on real fields",
    why="the pattern is learned; no single cell stands out",
)
def fine_field(seed):
    X, y = fields(seed, shape=(45, 90), n_samples=160, width=3)
    return fit(wide_mlp(max_epochs=30), X, y, seed)


def pacific(model, seed, rule="epsilon"):
    """Train on half of the winters of the Pacific."""
    sst = load_pacific_sst()
    X, y = np.asarray(sst.data, dtype=np.float32), sst.target
    return fit(model, X, (y == np.unique(y)[1]).astype(int), seed, rule=rule)


@planted(
    "Pacific SST, MLP",
    "fact",
    kind="no power on real fields",
    why="El Niño is recognised by the tropical Pacific; 18 winters are held out",
    also=("undecided",),
)
def pacific_mlp(seed):
    return pacific(wide_mlp(), seed)


@planted(
    "Pacific SST, CNN",
    "fact",
    kind="no power on real fields",
    why="El Niño is recognised by the tropical Pacific; 18 winters are held out",
    also=("undecided",),
)
def pacific_cnn(seed):
    shape = load_pacific_sst().data.shape[1:]
    return pacific(CNNClassifier(input_shape=(1, *shape), max_epochs=30), seed, "auto")


@planted(
    "outer cells are 0",
    "fact",
    kind="a border of zeros",
    why="cells at the border have no data in any sample: shares there are 0 by 0",
)
def zero_border(seed):
    X, y, mask = with_patch(seed, 0.5)
    outer = np.ones(SHAPE, dtype=bool)
    outer[4:-4, 4:-4] = False
    return fit(wide_mlp(max_epochs=30), filled(X, outer, 0.0), y, seed, true_cells=mask)


@planted(
    "CNN, outer cells are 0",
    "fact",
    kind="a border of zeros",
    why="cells at the border have no data in any sample: shares there are 0 by 0",
)
def zero_border_cnn(seed):
    X, y, mask = with_patch(seed, 0.5)
    outer = np.ones(SHAPE, dtype=bool)
    outer[4:-4, 4:-4] = False
    return fit(field_cnn(), filled(X, outer, 0.0), y, seed, true_cells=mask)


@planted(
    "modest skill",
    "fact",
    kind="modest skill",
    why="about 60 % are right, which 500 held-out samples tell from chance",
)
def modest(seed):
    shape = (12, 12)
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((1500, *shape)).astype(np.float32)
    mask = patch(shape, (2, 4), (6, 8))
    y = rng.permutation(np.repeat([0, 1], 750))
    X[:, mask] += 0.2 * np.where(y == 1, 1, -1)[:, None]
    model = MLPClassifier((32,), max_epochs=8, weight_decay=0.01)
    return fit(model, X, y, seed, n_test=500, true_cells=mask)


# Artifacts


@planted(
    "padding starves the border",
    "artifact",
    kind="border",
    why="the pattern is the same everywhere, and relevance fades to the border",
)
def starved(seed):
    model = field_cnn(channels=(8, 8), kernel_size=9, pooling="avg", hidden_layer_sizes=())
    return fit(model, *fields(seed, uniform=True), seed, rule="auto")


@planted(
    "stride grid",
    "artifact",
    kind="grid",
    why="the kernels meet every other cell more often",
)
def stride(seed):
    model = field_cnn(stride=2, padding="valid", pooling=None)
    return fit(model, *fields(seed), seed, rule="auto")


@planted(
    "MLP, fields in degrees",
    "artifact",
    kind="a mean everywhere",
    why="cells count by a mean of ten standard deviations",
)
def in_degrees(seed):
    X, y = fields(seed)
    return fit(wide_mlp(), X + 10, y, seed)


@planted(
    "a mean of 2.5 standard deviations",
    "artifact",
    kind="a mean everywhere",
    why="cells count by a mean that all samples share",
)
def mean_everywhere(seed):
    X, y, mask = with_patch(seed, 0.5)
    return fit(wide_mlp(), X + 2.5, y, seed, true_cells=mask)


@planted(
    "fill value on land",
    "artifact",
    kind="fill value",
    why="land counts by a value that all samples share",
)
def fill_value(seed):
    X, y = fields(seed)
    return fit(wide_mlp(), filled(X, land(), -3.0), y, seed, true_cells=~land())


@planted(
    "fill value changed after training",
    "artifact",
    kind="fill value",
    why="land was 0 in training, and is -9.99 in the samples explained",
)
def changed_fill(seed):
    X, y = fields(seed)
    case = fit(wide_mlp(), filled(X, land(), 0.0), y, seed)
    X = filled(case.X, land(), -9.99)
    return Case(case.model, X, case.y, case.X_train, case.y_train, true_cells=~land())


@planted(
    "ESN stripes",
    "artifact",
    kind="ESN stripes",
    why="rows light up by their random input weights, the last columns most",
)
def stripes(seed):
    X, y, mask = with_patch(seed, 0.7, shape=(40, 40))
    return fit(esn(40, leak_rate=0.1), X, y, seed, rule="z_plus", true_cells=mask)


# Samples that are correlated


def steps(rng, n_samples, rho, shape):
    """Return a series of smooth fields, each correlated with the one before it."""
    noise = smooth(rng, n_samples, shape)
    for i in range(1, n_samples):
        noise[i] = rho * noise[i - 1] + np.sqrt(1 - rho**2) * noise[i]
    return noise


def in_time(model, seed, strength, rho=0.85, n_samples=700, rule="epsilon"):
    """Train on the first half of a series whose label follows an index that lasts as well."""
    rng, shape = np.random.default_rng(seed), (16, 16)
    X, mask = steps(rng, n_samples, rho, shape), patch(shape, (4, 8), (9, 13))
    index = steps(rng, n_samples, rho, (1, 1)).ravel()
    X[:, mask] += strength * index[:, None]
    y, half = (index > 0).astype(int), n_samples // 2
    model.set_params(random_state=seed).fit(X[:half], y[:half])
    true = mask if strength else np.zeros_like(mask)
    return Case(model, X[half:], y[half:], X[:half], y[:half], rule=rule, true_cells=true)


def in_groups(model, seed, strength, n_groups=80, size=8):
    """Train on half of the cases, whose members share most of a field, and the label."""
    rng, shape = np.random.default_rng(seed), (16, 16)
    of_group = np.repeat(np.arange(n_groups), size)
    X = smooth(rng, n_groups, shape)[of_group] + 0.5 * smooth(rng, n_groups * size, shape)
    mask = patch(shape, (4, 8), (9, 13))
    y = (rng.permutation(n_groups) % 2)[of_group]
    X[:, mask] += strength * np.where(y == 1, 1, -1)[:, None]
    half = len(X) // 2
    model.set_params(random_state=seed).fit(X[:half], y[:half])
    true = mask if strength else np.zeros_like(mask)
    return Case(
        model,
        X[half:],
        y[half:],
        X[:half],
        y[:half],
        groups=of_group[half:],
        true_cells=true,
    )


@planted(
    "fields in order of time",
    "fact",
    kind="correlated samples",
    why="a patch follows an index that lasts for months",
)
def series_of_fields(seed):
    return in_time(wide_mlp(max_epochs=20), seed, 1.5)


@planted(
    "noise in order of time",
    "artifact",
    kind="correlated samples",
    why="fields and labels last for months, and have nothing to do with each other",
    also=("undecided",),
)
def series_of_noise(seed):
    return in_time(wide_mlp(max_epochs=20), seed, 0.0)


@planted(
    "CNN, noise in order of time",
    "artifact",
    kind="correlated samples",
    why="fields and labels last for months, and have nothing to do with each other",
    also=("undecided",),
)
def series_of_noise_cnn(seed):
    model = CNNClassifier((8,), input_shape=(1, 16, 16), max_epochs=20)
    return in_time(model, seed, 0.0, rule="auto")


@planted(
    "members of cases",
    "fact",
    kind="correlated samples",
    why="a patch tells the cases apart; members share the rest of the field",
)
def members(seed):
    return in_groups(wide_mlp(max_epochs=20), seed, 0.8)


@planted(
    "noise in members of cases",
    "artifact",
    kind="correlated samples",
    why="members share a field and a label: 40 units are held out, not 320",
    also=("undecided",),
)
def noise_members(seed):
    return in_groups(wide_mlp(max_epochs=20), seed, 0.0)

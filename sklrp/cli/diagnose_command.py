"""What ``sklrp diagnose`` does: tests of the maps of samples in a file, as a table and a page.

The command in `.commands` calls it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from sklearn.base import is_regressor

import sklrp
from sklrp._files import claim
from sklrp.cli.loaded_models import (
    RangeWarning,
    load_model,
    parse_target,
    shows_progress,
)
from sklrp.cli.samples import naming_fill, read_labels, read_mask


def diagnose_file(
    model: Path,
    data: Path,
    out: Path,
    *,
    labels: Path,
    train: Path | None,
    train_labels: Path | None,
    mask: Path | None,
    rule: str,
    epsilon: float,
    target: str | None,
    contrast: bool,
    n_permutations: int,
    n_refits: int,
    seed: int,
    memory: Path | None,
    variable: str | None,
    fill: float | None,
    device: str | None,
) -> None:
    """Diagnose the maps of the samples of a file; see the command for the parameters.

    Parameters
    ----------
    model, data, out, labels, train, train_labels, mask : pathlib.Path
        The files.
    rule, epsilon, target, contrast : object
        What is explained, and how.
    n_permutations, n_refits, seed : int
        How much is drawn.
    memory : pathlib.Path or None
        The folder where results are kept.
    variable, fill, device : object
        How files are read, and where the network is.
    """
    click.get_current_context().with_resource(claim(out))
    loaded = load_model(model, device)
    known = None if is_regressor(loaded.network) else loaded.classes
    label, _ = parse_target(target, loaded.network, loaded.classes)

    def read(path: Path) -> tuple[Any, int]:
        with loaded.open(path, variable, fill) as samples:
            X = samples.read()
            with naming_fill(fill, {path: X}):
                RangeWarning(loaded, path)(lambda: loaded.parts.enter(X))
            return X, samples.shape[0]

    X, n_samples = read(data)
    y = read_labels(labels, known, n_samples)
    X_train, n_train = (None, 0) if train is None else read(train)
    y_train = None
    if X_train is not None and train_labels is not None:
        y_train = read_labels(train_labels, known, n_train)
    given = {data: X} | ({} if train is None else {train: X_train})
    with naming_fill(fill, given):
        report = sklrp.diagnostics.diagnose(
            loaded.estimator,
            X,
            y,
            X_train=X_train,
            y_train=y_train,
            rule=rule,
            epsilon=epsilon,
            target=label,
            contrast=contrast,
            mask=None if mask is None else read_mask(mask),
            n_permutations=n_permutations,
            n_refits=n_refits,
            memory=memory,
            progress=shows_progress(),
            random_state=seed,
        )
    report.to_html(out)
    click.echo(repr(report))

"""The command ``sklrp diagnose``: tests of the maps of samples in a file, as a table and a page.

`sklrp.cli.main` has it as a command.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from numpy.typing import NDArray
from sklearn.base import is_regressor

import sklrp
from sklrp._files import claim
from sklrp.cli.options import (
    CONTRAST,
    DEVICE,
    EPSILON,
    EXISTING,
    FILL,
    RULE,
    SAMPLES,
    TARGET,
    VARIABLE,
    RangeWarning,
    check_out,
    check_samples,
    file_path,
    load_model,
    parse_target,
    shows_progress,
)
from sklrp.cli.samples import Samples, read_labels, read_mask


@click.command(short_help="Test which part of the maps of DATA is fact and which is artifact.")
@click.argument("model", type=EXISTING)
@click.argument("data", type=SAMPLES)
@click.option(
    "--labels",
    type=EXISTING,
    required=True,
    help="The labels, or the values of a regression: a .npy file, or a text file with a line for "
    "each sample; of several outputs with a column for each, or the values of --target alone.",
)
@click.option(
    "--train",
    type=SAMPLES,
    help="What the model was trained on, in a form of DATA: contributions of cells are found "
    "against it. By default against DATA.",
)
@click.option(
    "--train-labels",
    type=EXISTING,
    help="Its labels, in a form of --labels; needed by --n-refits.",
)
@click.option(
    "-o", "--out", type=file_path(dir_okay=False), required=True, help="The page to write."
)
@RULE
@EPSILON
@TARGET
@CONTRAST
@click.option(
    "--mask",
    type=SAMPLES,
    help="Where relevance belongs: zeros and ones in the shape of a sample, in a form of DATA.",
)
@click.option(
    "--n-permutations",
    type=click.IntRange(min=3),
    default=20,
    show_default=True,
    help="Number of null models.",
)
@click.option(
    "--n-refits",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Clones that are trained for each test that trains, on --train; 0 leaves these out.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Determines all that is drawn.",
)
@VARIABLE
@FILL
@DEVICE
def diagnose(  # numpydoc ignore=PR01
    model: Path,
    data: Path,
    labels: Path,
    train: Path | None,
    train_labels: Path | None,
    out: Path,
    rule: str,
    epsilon: float,
    target: str | None,
    contrast: bool,
    mask: Path | None,
    n_permutations: int,
    n_refits: int,
    seed: int,
    variable: str | None,
    fill: float | None,
    device: str | None,
) -> None:
    """Test which part of the relevance maps of DATA is fact and which is artifact.

    DATA holds samples that the model was not trained on, in a form that explain takes. Prints the
    answer and a table of all tests, and writes them as one page with pictures. Whatever the
    verdict is, the status is 0.

    \b
    Example:
      python -m sklrp diagnose model.safetensors samples.npy --labels labels.txt \\
          --train train.npy -o report.html
    """
    _check_training(train, train_labels, n_refits)
    given = (mask, train, train_labels)
    check_out(out, model, data, labels, *(path for path in given if path is not None))
    click.get_current_context().with_resource(claim(out))
    network, classes = load_model(model, device)
    known = None if is_regressor(network) else classes
    if target == "all":
        raise ValueError("--target all makes a map of each output: a diagnosis is of one.")
    label, _ = parse_target(target, network, classes)
    columns = getattr(network, "feature_names_in_", None)

    def read(path: Path) -> NDArray[Any]:
        with Samples(path, variable, columns, fill) as samples:
            check_samples(samples)
            X = samples.read()
            RangeWarning(network, samples)(X)
            return X

    X = read(data)
    y = read_labels(labels, known, len(X))
    X_train = None if train is None else read(train)
    y_train = None
    if X_train is not None and train_labels is not None:
        y_train = read_labels(train_labels, known, len(X_train))
    report = sklrp.diagnostics.diagnose(
        network,
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
        progress=shows_progress(),
        random_state=seed,
    )
    report.to_html(out)
    click.echo(repr(report))


def _check_training(train: Path | None, train_labels: Path | None, n_refits: int) -> None:
    """Refuse options that need others, before anything is read."""
    if train_labels is not None and train is None:
        raise ValueError("--train-labels belong to --train: give both, or neither.")
    if n_refits and (train is None or train_labels is None):
        raise ValueError(
            f"--n-refits {n_refits} trains clones: give --train and --train-labels, what the "
            "model was trained on."
        )

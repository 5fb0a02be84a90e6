"""The command ``sklrp diagnose``: tests of the maps of samples in a file, as a table and a page.

`sklrp.cli.main` has it as a command.
"""

from __future__ import annotations

from pathlib import Path

import click

import sklrp
from sklrp.cli.options import (
    CONTRAST,
    DEVICE,
    EPSILON,
    EXISTING,
    FILL,
    RULE,
    SAMPLES,
    VARIABLE,
    check_out,
    check_samples,
    file_path,
    load_model,
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
    help="The labels: a .npy file, or a text file of one per line.",
)
@click.option(
    "-o", "--out", type=file_path(dir_okay=False), required=True, help="The page to write."
)
@RULE
@EPSILON
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
    default=2,
    show_default=True,
    help="Clones that are trained for each test that trains; 0 leaves these out.",
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
    out: Path,
    rule: str,
    epsilon: float,
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
    table of all tests and writes them as one page with pictures. Whatever the verdict is, the
    status is 0.

    \b
    Example:
      python -m sklrp diagnose model.safetensors samples.npy --labels labels.txt -o report.html
    """
    check_out(out, model, data, labels, *([] if mask is None else [mask]))
    classifier, classes = load_model(model, device)
    columns = getattr(classifier, "feature_names_in_", None)
    with Samples(data, variable, columns, fill) as samples:
        check_samples(samples)
        X = samples.read()
    y = read_labels(labels, classes, len(X))
    report = sklrp.diagnostics.diagnose(
        classifier,
        X,
        y,
        rule=rule,
        epsilon=epsilon,
        contrast=contrast,
        mask=None if mask is None else read_mask(mask),
        n_permutations=n_permutations,
        n_refits=n_refits,
        progress=shows_progress(),
        random_state=seed,
    )
    report.to_html(out)
    click.echo(repr(report))

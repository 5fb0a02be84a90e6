"""The commands and their options, without anything that takes time to import.

`sklrp.cli.main` is the group of them. Each takes what it does from a file of its own when it is
called, so that help is there at once, and so is what `.call_checks` finds wrong.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sklrp._signals import raise_at_signals
from sklrp.cli.call_checks import check_diagnose, check_explain, check_folder


def file_path(**kwargs: Any) -> click.Path:
    """Return the type of an argument that names a file."""
    return click.Path(path_type=Path, **kwargs)


EXISTING = file_path(exists=True, dir_okay=False)
SAMPLES = file_path(exists=True)  # a zarr store is a folder
RULE = click.option(
    "--rule",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="How relevance is passed on: auto, or the name of a rule or preset, such as epsilon, "
    "gamma, z_plus or epsilon_plus; a name that is unknown lists all.",
)
EPSILON = click.option(
    "--epsilon",
    type=click.FloatRange(min=0),
    default=1e-6,
    show_default=True,
    help="Stabiliser of the rules that have none of their own, in units of pre-activations.",
)
TARGET = click.option(
    "--target",
    metavar="LABEL",
    help="What is explained: a class; of a regressor the index of an output, or several for their "
    "sum, such as 0,2 or 3:6; all, where an axis for them is made. By default the predicted class "
    "of each sample, or the only output.",
)
CONTRAST = click.option(
    "--contrast", is_flag=True, help="Explain the logit minus the largest of the other classes."
)
VARIABLE = click.option(
    "--variable", metavar="NAME", help="Which array of DATA, where it holds several."
)
FILL = click.option(
    "--fill",
    type=float,
    metavar="NUMBER",
    help="What to put in place of missing values, such as 0 on land; they are an error by "
    "default.",
)
DEVICE = click.option(
    "--device", metavar="NAME", help="cpu, cuda, cuda:1, ...; that of the model by default."
)


@click.command(short_help="Train on El Niño and La Niña, explain, and leave files to go on with.")
@click.option(
    "--out",
    type=file_path(file_okay=False),
    default=Path("sklrp-demo"),
    show_default=True,
    help="The folder to write to.",
)
def demo(out: Path) -> None:  # numpydoc ignore=PR01
    """Train on El Niño and La Niña, explain, and write what the other commands take.

    The data comes with the package eofs (pip install 'sklrp[examples]'); without it, images of
    squares take its place. Takes some seconds.

    \b
    Example:
      python -m sklrp demo --out demo
    """
    check_folder(out)
    from sklrp.cli.demo import run_demo

    raise_at_signals()
    run_demo(out)


@click.command(short_help="Write the relevance of each value of DATA for a class or value.")
@click.argument("model", type=EXISTING)
@click.argument("data", type=SAMPLES)
@click.option("-o", "--out", type=file_path(), required=True, help="Where the relevance goes.")
@RULE
@EPSILON
@TARGET
@CONTRAST
@click.option(
    "--reference",
    metavar="VALUE",
    help="The value that relevance of zeros stands for: mean, the default of regressors, zero or "
    "a number, in the target's units.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    help="Samples explained at once; what keeps memory low by default.",
)
@VARIABLE
@FILL
@DEVICE
@click.option(
    "--resume", is_flag=True, help="Go on with what an interrupted run has left, if there is any."
)
def explain(**options: Any) -> None:  # numpydoc ignore=PR01
    """Write the relevance of each value of DATA for a class or a value.

    DATA is a .npy, .npz, NetCDF (.nc), .zarr or .csv file; OUT has the same form, shape, names and
    coordinates. The first axis is that of the samples. Of a .csv file with a header, the columns
    that the model was trained on are taken by name. Samples are read and explained in chunks, so
    that a .npy, NetCDF or zarr file may be larger than memory. In NetCDF and zarr the relevance
    says its rule, target and units, and is missing where the data were missing before --fill.

    A MODEL may be a pipeline: DATA is then what the pipeline takes, such as fields as downloaded,
    and OUT holds the relevance of what enters its network, as sklrp.geo.explain returns it.

    What is done is kept in OUT.part, with OUT.part.json beside it; --resume goes on there after
    an interruption. OUT itself appears when it is complete; a file of that name is replaced only
    then, without a question. A second run that would write the same
    OUT at the same time is refused.

    \b
    Example:
      python -m sklrp explain model.safetensors samples.npy -o relevance.npy --rule epsilon_plus
    """
    check_explain(**options)
    from sklrp.cli.explain_command import explain_file

    raise_at_signals()
    explain_file(**options)


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
@click.option(
    "--memory",
    type=file_path(file_okay=False),
    help="A folder where results are kept: after an interruption the same command goes on there.",
)
@VARIABLE
@FILL
@DEVICE
def diagnose(**options: Any) -> None:  # numpydoc ignore=PR01
    """Test which part of the relevance maps of DATA is fact and which is artifact.

    DATA holds samples that the model was not trained on, in a form that explain takes. Prints the
    answer and a table of all tests, and writes them as one page with pictures. Whatever the
    verdict is, the status is 0.

    \b
    Example:
      python -m sklrp diagnose model.safetensors samples.npy --labels labels.txt \\
          --train train.npy -o report.html
    """
    check_diagnose(**options)
    from sklrp.cli.diagnose_command import diagnose_file

    raise_at_signals()
    diagnose_file(**options)

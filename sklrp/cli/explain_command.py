"""The command ``sklrp explain``: relevance of samples in a file, chunk by chunk, to a file.

`sklrp.cli.main` has it as a command. What is done is kept by `.runs`, so that it can be resumed.
"""

from __future__ import annotations

import os
from pathlib import Path

import click
import numpy as np

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
from sklrp.cli.runs import PartialRun, checksum
from sklrp.cli.samples import Samples, form_of
from sklrp.geo.relevance_fields import describe_relevance


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
def explain(  # numpydoc ignore=PR01
    model: Path,
    data: Path,
    out: Path,
    rule: str,
    epsilon: float,
    target: str | None,
    contrast: bool,
    reference: str | None,
    batch_size: int | None,
    variable: str | None,
    fill: float | None,
    device: str | None,
    resume: bool,
) -> None:
    """Write the relevance of each value of DATA for a class or a value.

    DATA is a .npy, .npz, NetCDF (.nc), .zarr or .csv file; OUT has the same form, shape, names and
    coordinates. The first axis is that of the samples. Of a .csv file with a header, the columns
    that the model was trained on are taken by name. Samples are read and explained in chunks, so
    that a .npy, NetCDF or zarr file may be larger than memory. In NetCDF and zarr the relevance
    says its rule, target and units, and is missing where the data were missing before --fill.

    What is done is kept in OUT.part, with OUT.part.json beside it; --resume goes on there after
    an interruption. OUT itself appears when it is complete. A second run that would write the same
    OUT at the same time is refused.

    \b
    Example:
      python -m sklrp explain model.safetensors samples.npy -o relevance.npy --rule epsilon_plus
    """
    if form_of(out) != form_of(data):
        raise ValueError(
            f"OUT must have the form of DATA, {form_of(data)}, got {out.name}: change its suffix "
            f"to {data.suffix}."
        )
    check_out(out, model, data)
    if out.is_symlink():  # what is done is kept beside the file that it names
        out = out.resolve()
    click.get_current_context().with_resource(claim(out))
    sklrp.check_rule(rule)
    network, classes = load_model(model, device)
    label, said = parse_target(target, network, classes)
    value = _read_reference(reference)
    settings = {
        "version of sklrp": sklrp.__version__,
        "model": checksum(model),
        "rule": rule,
        "epsilon": epsilon,
        "target": target,
        "contrast": contrast,
        "reference": reference,
        "batch size": batch_size,
        "variable": variable,
        "fill": fill,
    }
    columns = getattr(network, "feature_names_in_", None)
    with Samples(data, variable, columns, fill) as samples:
        check_samples(samples)
        run = PartialRun(out, {**settings, "shape of the data": samples.shape}, resume)

        warn_of_range = RangeWarning(network, samples)

        def explain_part(X: np.ndarray) -> np.ndarray:
            filled = samples.fill_in(X)
            relevance = sklrp.explain(
                network,
                filled,
                target=label,
                rule=rule,
                epsilon=epsilon,
                contrast=contrast,
                reference=value,
                batch_size=batch_size,
            )
            warn_of_range(filled)
            if fill is not None and samples.form in ("NetCDF", "zarr"):  # as sklrp.geo.explain
                missing = np.isnan(X)
                missing = missing[:, np.newaxis] if target == "all" else missing
                relevance = np.where(missing, relevance.dtype.type(np.nan), relevance)
            return relevance

        try:
            relevance = run.explain(explain_part, samples, progress=shows_progress())
        except KeyboardInterrupt:
            if run.begun:
                click.echo(
                    f"{run.done} of {samples.shape[0]} samples are done; --resume goes on.",
                    err=True,
                )
            raise
        if samples.form == "npy":
            os.replace(run.path, out)
        else:
            name = type(network).__name__
            about = describe_relevance(network, name, rule, epsilon, said, contrast, value)
            samples.write(out, relevance, classes.tolist() if target == "all" else None, about)
        run.finish()


def _read_reference(text: str | None) -> str | float | None:
    """Return a reference from its text."""
    if text in (None, "mean", "zero"):
        return text
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"--reference must be mean, zero or a number, got {text!r}.") from None

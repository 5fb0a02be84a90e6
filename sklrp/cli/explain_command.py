"""What ``sklrp explain`` does: relevance of samples in a file, chunk by chunk, to a file.

The command in `.commands` calls it. What is done is kept by `.runs`, so that it can be resumed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

import sklrp
from sklrp._files import claim
from sklrp.cli.call_checks import parse_reference
from sklrp.cli.field_samples import FieldSamples
from sklrp.cli.loaded_models import (
    Loaded,
    RangeWarning,
    load_model,
    parse_target,
    shows_progress,
)
from sklrp.cli.runs import PartialRun, checksum
from sklrp.cli.samples import Samples, naming_fill
from sklrp.geo.relevance_fields import describe_relevance


def explain_file(
    model: Path,
    data: Path,
    out: Path,
    *,
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
    """Explain the samples of a file, into a file of its form; see the command for the parameters.

    Parameters
    ----------
    model, data, out : pathlib.Path
        The files.
    rule, epsilon, target, contrast, reference, batch_size : object
        What is explained, and how.
    variable, fill, device, resume : object
        How files are read, where the network is, whether to go on.
    """
    if out.is_symlink():  # what is done is kept beside the file that it names
        out = out.resolve()
    click.get_current_context().with_resource(claim(out))
    sklrp.check_rule(rule)
    loaded = load_model(model, device)
    label, said = parse_target(target, loaded.network, loaded.classes)
    how: dict[str, Any] = {
        "rule": rule,
        "epsilon": epsilon,
        "contrast": contrast,
        "reference": parse_reference(reference),
        "batch_size": batch_size,
    }
    settings = {
        "version of sklrp": sklrp.__version__,
        "model": checksum(model),
        **how,
        "reference": reference,
        "target": target,
        "variable": variable,
        "fill": fill,
    }
    with loaded.open(data, variable, fill) as samples:
        run = PartialRun(out, {**settings, "shape of the data": samples.shape}, resume)
        warn_of_range = RangeWarning(loaded, data)
        with _saying_how_far(run, samples.shape[0]):
            if isinstance(samples, FieldSamples):
                _explain_gridded(
                    loaded, samples, run, out, {"target": label, **how}, warn_of_range
                )
            else:
                _explain_plain(
                    loaded, samples, run, out, {"target": label, **how}, warn_of_range, said
                )
            run.finish()


@contextmanager
def _saying_how_far(run: PartialRun, n_samples: int) -> Iterator[None]:
    """Say how far a run came that is interrupted, or has no room to write."""
    try:
        yield
    except (KeyboardInterrupt, OSError) as error:
        if run.begun:
            how_far = f"{run.done} of {n_samples} samples are done; --resume goes on"
            if isinstance(error, OSError):
                error.add_note(how_far)
            else:
                click.echo(f"{how_far}.", err=True)
        raise


def _explain_plain(
    loaded: Loaded,
    samples: Samples,
    run: PartialRun,
    out: Path,
    how: dict[str, Any],
    warn_of_range: RangeWarning,
    said: Any,
) -> None:
    """Explain samples that are arrays or tables, and write their relevance in the same form."""
    is_of_all = isinstance(how["target"], str) and how["target"] == "all"
    if is_of_all:
        samples.check_classes()
    explain_part = _explain_arrays(loaded, samples, warn_of_range, how)
    relevance = run.explain(explain_part, samples, progress=shows_progress())
    if samples.form == "npy":
        named = os.path.realpath(out)  # what a link names, as of the other forms
        if os.path.exists(named):
            shutil.copymode(named, run.path)
        os.replace(run.path, named)
        return
    name = type(loaded.network).__name__
    about = {key: value for key, value in how.items() if key != "batch_size"}
    about = describe_relevance(loaded.network, name, **{**about, "target": said})
    if samples.form == "CSV":
        samples.header = _name_features(loaded, samples, relevance.shape[-1])
    samples.write(out, relevance, loaded.classes.tolist() if is_of_all else None, about)


def _explain_gridded(
    loaded: Loaded,
    samples: FieldSamples,
    run: PartialRun,
    out: Path,
    how: dict[str, Any],
    warn_of_range: RangeWarning,
) -> None:
    """Explain fields by a pipeline that takes them, and write what `sklrp.geo.explain` returns."""

    def explain_part(fields: Any) -> NDArray:
        warn_of_range(lambda: loaded.parts.enter(fields))
        return samples.as_array(sklrp.geo.explain(loaded.estimator, fields, **how))

    relevance = run.explain(explain_part, samples, progress=shows_progress())
    first = sklrp.geo.explain(loaded.estimator, samples.read(slice(0, 1)), **how)
    samples.write(out, relevance, first)


def _explain_arrays(
    loaded: Loaded, samples: Samples, warn_of_range: RangeWarning, how: dict[str, Any]
) -> Callable[[Any], NDArray]:
    """Return what explains samples that are arrays or tables, not filled yet."""
    parts = loaded.parts
    is_of_all = isinstance(how["target"], str) and how["target"] == "all"

    def explain_part(X: Any) -> NDArray:
        with naming_fill(samples.fill, {samples.path: X}):
            entering = parts.enter(samples.fill_in(X))
            relevance = np.asarray(sklrp.explain(parts.network, entering, **how))
        warn_of_range(lambda: entering)
        if samples.form not in ("NetCDF", "zarr"):
            return relevance
        shape = relevance.shape[1 + is_of_all :]
        if shape != X.shape[1:]:
            raise ValueError(
                f"the model's steps make samples of shape {shape} of those in {samples.path}, "
                f"which have {X.shape[1:]}, so that relevance has no place on its axes: give the "
                "samples as a .npy or .csv file."
            )
        if samples.fill is None:
            return relevance
        missing = np.isnan(X)  # have no relevance, as in sklrp.geo.explain
        missing = missing[:, np.newaxis] if is_of_all else missing
        return np.where(missing, relevance.dtype.type(np.nan), relevance)

    return explain_part


def _name_features(loaded: Loaded, samples: Samples, n_features: int) -> list[str] | None:
    """Return the names of what enters the network, of samples in a CSV file."""
    if loaded.parts.before is None:
        return samples.header
    names = loaded.parts.feature_names(None, n_features)
    if names is None and samples.header is not None and len(samples.header) != n_features:
        return [f"x{i}" for i in range(n_features)]
    return names or samples.header

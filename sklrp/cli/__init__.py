"""The command line: ``sklrp`` or ``python -m sklrp``.

It reads arguments and prints; `.samples` reads and writes files, `.runs` explains chunk by chunk,
and `.demo` is the first command that a newcomer runs.
"""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any, NoReturn

import click
import numpy as np

import sklrp
from sklrp.cli.runs import PartialRun, checksum
from sklrp.cli.samples import Samples, find_class, form_of, read_labels, read_mask

__all__ = ["main"]

_INTERRUPTED = 130
_BAD_INPUT = (
    ValueError,
    TypeError,
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)


class Failure(click.ClickException):
    """An error in one line, with status 1.

    Parameters
    ----------
    error : Exception
        What went wrong.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(f"{type(error).__name__}: {error}")


class BadInput(click.ClickException):
    """An error of the call or its input in one line, with status 2.

    Parameters
    ----------
    error : Exception
        What is wrong.
    """

    exit_code = 2

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))


class Commands(click.Group):
    """The group of commands, whose errors and warnings are single lines on stderr."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; without ``--debug`` no error shows a traceback."""
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning  # type: ignore[assignment]
            try:
                return super().invoke(ctx)
            except (click.ClickException, click.exceptions.Exit, click.Abort):
                raise
            except BrokenPipeError:  # as of head, which has seen enough: click says nothing
                raise
            except Exception as error:
                if ctx.params["debug"]:
                    traceback.print_exc()
                kind = BadInput if isinstance(error, _BAD_INPUT) else Failure
                raise kind(error) from error

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Run the command line, and leave with its status."""
        kwargs["standalone_mode"] = False
        try:
            status = super().main(*args, **kwargs)
        except click.Abort:
            status = _fail("interrupted", _INTERRUPTED)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            status = error.exit_code
        except click.ClickException as error:
            status = _fail(error.format_message(), error.exit_code)
        sys.exit(status if isinstance(status, int) else 0)


def _fail(message: str, status: int) -> int:
    click.echo(f"error: {' '.join(message.split())}", err=True)
    return status


def _show_warning(message: Warning | str, *args: Any) -> None:
    click.echo(f"warning: {' '.join(str(message).split())}", err=True)


def _shows_progress() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def _file(**kwargs: Any) -> click.Path:
    return click.Path(path_type=Path, **kwargs)


_EXISTING = _file(exists=True, dir_okay=False)
_SAMPLES = _file(exists=True)  # a zarr store is a folder
_RULE = click.option(
    "--rule",
    default="auto",
    show_default=True,
    metavar="NAME",
    help=f"How relevance is passed on: {', '.join(sklrp.available_rules())}.",
)
_EPSILON = click.option(
    "--epsilon",
    type=click.FloatRange(min=0),
    default=1e-6,
    show_default=True,
    help="Stabiliser of the rules that have none of their own, in units of pre-activations.",
)
_CONTRAST = click.option(
    "--contrast", is_flag=True, help="Explain the logit minus the largest of the other classes."
)
_VARIABLE = click.option(
    "--variable", metavar="NAME", help="Which array of DATA, where it holds several."
)
_FILL = click.option(
    "--fill",
    type=float,
    metavar="NUMBER",
    help="What to put in place of missing values, such as 0 on land; they are an error by "
    "default.",
)
_DEVICE = click.option(
    "--device", metavar="NAME", help="cpu, cuda, cuda:1, ...; that of the model by default."
)


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 99},
    epilog="Status: 0 done, 1 failed, 2 the call or its input is wrong, 130 interrupted.",
)
@click.version_option(sklrp.__version__, prog_name="sklrp")
@click.option("--debug", is_flag=True, help="Show where an error was raised.")
def main(debug: bool) -> None:  # numpydoc ignore=PR01
    """Tell which values a network's decisions rest on, by layer-wise relevance propagation.

    A MODEL is a file that sklrp.save has written; loading it runs no code of the file.

    \b
    Examples:
      python -m sklrp demo --out demo
      python -m sklrp explain demo/model.safetensors demo/samples.npy -o relevance.npy
      python -m sklrp diagnose demo/model.safetensors demo/samples.npy
          --labels demo/labels.txt -o report.html
    """


@main.command(short_help="Train on El Niño and La Niña, explain, and leave files to go on with.")
@click.option(
    "--out",
    type=_file(file_okay=False),
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
    from sklrp.cli.demo import run_demo

    existing = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not os.access(existing, os.W_OK):
        raise PermissionError(f"{existing} cannot be written to: choose another folder.")
    run_demo(out)


@main.command(short_help="Write the relevance of each value of DATA for a class.")
@click.argument("model", type=_EXISTING)
@click.argument("data", type=_SAMPLES)
@click.option("-o", "--out", type=_file(), required=True, help="Where the relevance goes.")
@_RULE
@_EPSILON
@click.option(
    "--target",
    metavar="LABEL",
    help="The class to explain, or all for an axis of classes after that of the samples; the "
    "predicted class of each sample by default.",
)
@_CONTRAST
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    help="Samples explained at once; what keeps memory low by default.",
)
@_VARIABLE
@_FILL
@_DEVICE
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
    batch_size: int | None,
    variable: str | None,
    fill: float | None,
    device: str | None,
    resume: bool,
) -> None:
    """Write the relevance of each value of DATA for a class.

    DATA is a .npy, .npz, NetCDF (.nc), .zarr or .csv file; OUT has the same form, shape, names and
    coordinates. The first axis is that of the samples. Of a .csv file with a header, the columns
    that the model was trained on are taken by name. Samples are read and explained in chunks, so
    that a .npy, NetCDF or zarr file may be larger than memory.

    What is done is kept in OUT.part, with OUT.part.json beside it; --resume goes on there after
    an interruption. OUT itself appears when it is complete.

    \b
    Example:
      python -m sklrp explain model.safetensors samples.npy -o relevance.npy --rule epsilon_plus
    """
    if form_of(out) != form_of(data):
        raise ValueError(
            f"OUT must have the form of DATA, {form_of(data)}, got {out.name}: change its suffix "
            f"to {data.suffix}."
        )
    _check_out(out, model, data)
    if out.is_symlink():  # what is done is kept beside the file that it names
        out = out.resolve()
    sklrp.check_rule(rule)
    classifier = _load_classifier(model, device)
    label: Any = target
    if target is not None and target != "all":
        label = find_class(target, classifier.classes_, "--target")
    settings = {
        "version of sklrp": sklrp.__version__,
        "model": checksum(model),
        "rule": rule,
        "epsilon": epsilon,
        "target": target,
        "contrast": contrast,
        "batch size": batch_size,
        "variable": variable,
        "fill": fill,
    }
    columns = getattr(classifier, "feature_names_in_", None)
    with Samples(data, variable, columns, fill) as samples:
        _check_samples(samples)
        run = PartialRun(out, {**settings, "shape of the data": samples.shape}, resume)

        def explain_part(X: np.ndarray) -> np.ndarray:
            return classifier.explain(
                X,
                target=label,
                rule=rule,
                epsilon=epsilon,
                contrast=contrast,
                batch_size=batch_size,
            )

        try:
            relevance = run.explain(explain_part, samples, progress=_shows_progress())
        except KeyboardInterrupt:
            if run.done:
                click.echo(
                    f"{run.done} of {samples.shape[0]} samples are done; --resume goes on.",
                    err=True,
                )
            raise
        if samples.form == "npy":
            os.replace(run.path, out)
        else:
            about = f"LRP by sklrp {sklrp.__version__}, rule {rule}, epsilon {epsilon:g}"
            classes = classifier.classes_.tolist() if target == "all" else None
            samples.write(out, relevance, classes, about)
        run.finish()


@main.command(short_help="Test which part of the maps of DATA is fact, and which an artifact.")
@click.argument("model", type=_EXISTING)
@click.argument("data", type=_SAMPLES)
@click.option(
    "--labels",
    type=_EXISTING,
    required=True,
    help="The labels: a .npy file, or a text file of one per line.",
)
@click.option("-o", "--out", type=_file(dir_okay=False), required=True, help="The page to write.")
@_RULE
@_EPSILON
@_CONTRAST
@click.option(
    "--mask",
    type=_SAMPLES,
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
@_VARIABLE
@_FILL
@_DEVICE
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
    """Test which part of the relevance maps of DATA is fact, and which an artifact.

    DATA holds samples that the model was not trained on, in a form that explain takes. Prints the
    table of all tests and writes them as one page with pictures. Whatever the verdict is, the
    status is 0.

    \b
    Example:
      python -m sklrp diagnose model.safetensors samples.npy --labels labels.txt -o report.html
    """
    _check_out(out, model, data, labels, *([] if mask is None else [mask]))
    classifier = _load_classifier(model, device)
    columns = getattr(classifier, "feature_names_in_", None)
    with Samples(data, variable, columns, fill) as samples:
        _check_samples(samples)
        X = samples.read()
    y = read_labels(labels, classifier.classes_, len(X))
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
        progress=_shows_progress(),
        random_state=seed,
    )
    report.to_html(out)
    click.echo(repr(report))


def _load_classifier(path: Path, device: str | None) -> Any:
    """Return a fitted classifier, whose features need no names as the columns are right."""
    model = sklrp.load(path, device)
    if not hasattr(model, "explain") or not hasattr(model, "classes_"):
        raise ValueError(
            f"{path} holds {type(model).__name__}, but must hold a fitted classifier; of a "
            "RelevanceTransformer, save its estimator_."
        )
    warnings.filterwarnings("ignore", "X does not have valid feature names")
    return model


def _check_samples(samples: Samples) -> None:
    if len(samples.shape) < 2 or not all(samples.shape):
        raise ValueError(
            f"{samples.path} has the shape {samples.shape}, but must hold samples along the first "
            "axis and their values along others."
        )


def _check_out(out: Path, *inputs: Path) -> None:
    """Raise an error, before anything takes time, if a file cannot be written or must not be."""
    if not out.parent.is_dir():
        raise FileNotFoundError(f"{out.parent} is no folder: make it, or choose another for {out}")
    if not os.access(out.parent, os.W_OK):
        raise PermissionError(f"{out.parent} cannot be written to: choose another for {out}")
    if out.resolve() in [path.resolve() for path in inputs]:
        raise ValueError(f"{out} is an input too: choose another name for what is written.")
    is_store = any((out / name).is_file() for name in ("zarr.json", ".zgroup"))
    if out.is_dir() and not is_store:
        raise IsADirectoryError(f"{out} is a folder: choose another name, or remove it.")
    if out.exists() and (is_store or not out.is_file()) != (out.suffix.lower() == ".zarr"):
        raise ValueError(f"{out} is there, as something else: choose another name, or remove it.")

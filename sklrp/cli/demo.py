"""The main job from beginning to end: train, explain, draw, save.

It is the command ``sklrp demo``, the first that a newcomer runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

import sklrp
from sklrp._checks import import_optional
from sklrp._files import claim, replacing

_FILES = ("model.safetensors", "samples.npy", "labels.txt", "train.npy", "train_labels.txt")


def run_demo(folder: Path) -> None:
    """Train four networks, print what they do and where their relevance lies, and write files.

    Parameters
    ----------
    folder : pathlib.Path
        Where to; it is made if it is not there.
    """
    from sklearn.model_selection import cross_val_score

    folder.mkdir(parents=True, exist_ok=True)
    click.get_current_context().with_resource(claim(folder / _FILES[0]))

    X, y, mask, places, region = _load()
    share = mask.sum() / (~places["land"]).sum()
    networks = {
        "MLP": sklrp.MLPClassifier((16,), max_epochs=50, random_state=0),
        "CNN": sklrp.CNNClassifier((8, 16), max_epochs=50, random_state=0),
        "LSTM": sklrp.LSTMClassifier(16, sweep="right", max_epochs=50, random_state=0),
        # Its readout has more weights than there are samples, so it needs a strong penalty.
        "ESN": sklrp.ESNClassifier(leak_rate=0.03, ridge=1.0, sweep="right", random_state=0),
    }
    relevance = {}
    for name, clf in networks.items():
        accuracy = cross_val_score(clf, X, y, cv=5).mean()
        relevance[name] = clf.fit(X, y).explain(X)
        positive = relevance[name].clip(min=0)
        shares = [positive[y == c][:, mask].sum() / positive[y == c].sum() for c in clf.classes_]
        found = ", ".join(
            f"class {c}: {100 * s:.1f} %" for c, s in zip(clf.classes_, shares, strict=True)
        )
        click.echo(f"{clf!r}\n  accuracy in 5-fold cross-validation: {accuracy:.3f}")
        click.echo(f"  positive relevance in {region} (its cells: {100 * share:.1f} %): {found}")

    _draw(folder / "relevance.png", X, relevance, y, places, mask)
    _write_files(folder, networks["CNN"], X, y, mask)
    paths = {name: folder / name for name in (*_FILES, "mask.npy", "relevance.npy", "report.html")}
    model, samples, labels, train, train_labels, mask_file, maps, report = paths.values()
    names = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
    written = ", ".join(sorted(names))  # and no locks
    click.echo(
        f"\nIn {folder}: {written}. Go on with a CNN that was trained on every second sample, "
        "and with the others:"
    )
    click.echo(f"  python -m sklrp explain {model} {samples} -o {maps}")
    click.echo(
        f"  python -m sklrp diagnose {model} {samples} --labels {labels} --train {train} "
        f"--train-labels {train_labels} --mask {mask_file} -o {report}"
    )


def _write_files(
    folder: Path, network: Any, X: NDArray, y: NDArray, mask: NDArray[np.bool_]
) -> None:
    """Train a network on every second sample, and write what the other commands take."""
    sklrp.save(clone(network).fit(X[::2], y[::2]), folder / "model.safetensors")
    for name, array in (("samples.npy", X[1::2]), ("train.npy", X[::2]), ("mask.npy", mask)):
        with replacing(folder / name) as part, open(part, "xb") as file:
            np.save(file, array)
    for name, labels in (("labels.txt", y[1::2]), ("train_labels.txt", y[::2])):
        with replacing(folder / name) as part:
            part.write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")


def _load() -> tuple[NDArray, NDArray, NDArray[np.bool_], dict[str, Any], str]:
    """Return samples, labels, the mask of the place that decides, land and degrees, and a name."""
    try:
        sst = sklrp.datasets.load_pacific_sst()
    except ImportError as error:
        click.echo(f"Made-up squares in place of the Pacific: {error}", err=True)
        X, y, mask = sklrp.datasets.make_squares(n_per_class=50, size=20, random_state=0)
        return X, y, mask, {"land": np.zeros_like(mask)}, "the square that tells classes apart"
    places = {"land": sst.land_mask, "lat": sst.latitude, "lon": sst.longitude}
    return sst.data, sst.target_names[sst.target], sst.nino34_mask, places, "Niño 3.4"


def _draw(
    path: Path,
    X: NDArray,
    relevance: dict[str, NDArray],
    y: NDArray,
    places: dict[str, Any],
    mask: NDArray[np.bool_],
) -> None:
    """Draw each class's mean sample and each network's mean map of it."""
    try:
        figures = import_optional("matplotlib.figure", extra="plot", user="A picture")
    except ImportError as error:
        click.echo(f"No picture: {error}", err=True)
        return
    figure = figures.Figure(figsize=(17, 5), layout="constrained")
    display = sklrp.plotting.RelevanceDisplay.from_relevance(
        relevance,
        X,
        labels=y,
        kind="class_mean",
        limits="view",
        clip=0.005,
        show_input=True,
        outline=mask,
        ax=figure.subplots(len(np.unique(y)), 1 + len(relevance)),
        **places,
    )
    for bar in display.colorbars_[: len(relevance)]:  # maps of arrays do not know their units
        said = bar.ax.get_xlabel()
        bar.set_label(
            said.replace("relevance;", "relevance (units of the score);"), fontsize="small"
        )
    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=80)

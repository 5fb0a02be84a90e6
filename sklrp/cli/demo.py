"""The main job from beginning to end: train, explain, draw, save."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

import sklrp
from sklrp.persistence import replacing


def run_demo(folder: Path) -> None:
    """Train a network, print what it does and where its relevance lies, and write files.

    Parameters
    ----------
    folder : pathlib.Path
        Where to; it is made if it is not there.
    """
    from sklearn.model_selection import cross_val_score

    folder.mkdir(parents=True, exist_ok=True)
    X, y, mask, land, region = _load()
    clf = sklrp.CNNClassifier((8, 16), max_epochs=50, random_state=0)
    accuracy = cross_val_score(clf, X, y, cv=5).mean()
    relevance = clf.fit(X, y).explain(X)
    positive = relevance.clip(min=0)

    click.echo(f"{clf!r}\naccuracy in 5-fold cross-validation: {accuracy:.3f}\n")
    click.echo(f"{'class':<12}{'samples':>8}   positive relevance in {region}")
    for label in clf.classes_:
        maps = positive[y == label]
        click.echo(f"{label!s:<12}{len(maps):>8}   {maps[:, mask].sum() / maps.sum():.1%}")
    click.echo(f"{'(its cells)':<20}   {mask.sum() / (~land).sum():.1%}\n")

    files = {name: folder / name for name in ("model.safetensors", "samples.npy", "labels.txt")}
    sklrp.save(clf, files["model.safetensors"])
    for name, array in (("samples.npy", X), ("mask.npy", mask)):
        with replacing(folder / name) as part, open(part, "xb") as file:
            np.save(file, array)
    with replacing(files["labels.txt"]) as part:
        part.write_text("".join(f"{label}\n" for label in y), encoding="utf-8")
    _draw(folder / "relevance.png", X, relevance, y, land)

    model, samples, labels = files.values()
    click.echo(f"In {folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}. Go on:")
    click.echo(f"  python -m sklrp explain {model} {samples} -o {folder / 'relevance.npy'}")
    click.echo(
        f"  python -m sklrp diagnose {model} {samples} --labels {labels} "
        f"--mask {folder / 'mask.npy'} -o {folder / 'report.html'}"
    )


def _load() -> tuple[NDArray, NDArray, NDArray[np.bool_], NDArray[np.bool_], str]:
    """Return samples, labels, the mask of the place that decides, that of land, and a name."""
    try:
        sst = sklrp.datasets.load_pacific_sst()
    except ImportError as error:
        click.echo(f"Made-up squares in place of the Pacific: {error}", err=True)
        X, y, mask = sklrp.datasets.make_squares(n_per_class=50, size=20, random_state=0)
        return X, y, mask, np.zeros_like(mask), "the square that tells the classes apart"
    return sst.data, sst.target_names[sst.target], sst.nino34_mask, sst.land_mask, "Niño 3.4"


def _draw(path: Path, X: NDArray, relevance: NDArray, y: NDArray, land: NDArray) -> None:
    """Draw each class's mean sample and mean map; all of a row have the same limits."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        click.echo(f"No picture, as matplotlib is missing: {error}", err=True)
        return
    classes = np.unique(y)
    figure = Figure(figsize=(4 * len(classes), 5), layout="constrained")
    axes: Any = figure.subplots(2, len(classes), squeeze=False)
    rows = [(X, "mean sample", "value"), (relevance, "mean relevance", "share of the logit")]
    for row, (values, name, unit) in enumerate(rows):
        means = np.array([np.where(land, np.nan, values[y == label].mean(0)) for label in classes])
        limit = np.nanmax(np.abs(means))
        for ax, mean, label in zip(axes[row], means, classes, strict=True):
            ax.set_facecolor("0.7")  # land
            image = ax.imshow(mean, cmap="RdBu_r", vmin=-limit, vmax=limit, origin="lower")
            ax.set(title=f"{label}: {name}", xticks=[], yticks=[])
        figure.colorbar(image, ax=axes[row], label=unit)
    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=120)

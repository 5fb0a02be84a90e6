"""Make the pictures that the documentation ships, so that building it runs nothing.

    python docs/pictures.py           # of the pages: each code block that saves a picture
    python docs/pictures.py examples  # of the examples: one picture each, and a thumbnail
    python docs/pictures.py examples plot_focus

A page shows `images/NAME.png` where its own code saves `NAME.png`. A thumbnail is one panel of an
example's picture. Who changes a page's code or an example runs this, and looks at what it made.
"""

import os
import re
import runpy
import sys
import tempfile
from pathlib import Path

import matplotlib
from PIL import Image

matplotlib.use("Agg")
import matplotlib.pyplot as plt

DOCS = Path(__file__).resolve().parent
IMAGES = DOCS / "images"
WIDTH, THUMBNAIL = 900, (320, 224)  # pixels

# Which figure of an example is shown, and which of its panels is the thumbnail; else the first.
SHOWN: dict[str, tuple[int, int]] = {
    "plot_choose_rule": (0, 4),
    "plot_clusters": (0, 1),
    "plot_digits": (3, 18),
    "plot_fact_or_artifact": (0, 1),
    "plot_first_of_365_days": (0, 1),
    "plot_focus": (0, 8),
    "plot_hidden_layers": (0, 1),
    "plot_known_answer": (0, 7),
    "plot_out_of_core": (0, 2),
    "plot_relevance_features": (0, 2),
    "plot_time_series": (0, 1),
    "plot_transformer": (0, 1),
}


def reduce_colors(picture, n_colors):
    """Return a picture with a palette. A median cut would make rare colours grey."""
    return picture.quantize(
        n_colors, Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE
    )


def shrink(source, target, width=WIDTH):
    """Write a picture no wider than `width`, with a palette, which takes a third of the space."""
    with Image.open(source) as picture:
        picture = picture.convert("RGB")
        if picture.width > width:
            picture = picture.resize(
                (width, round(picture.height * width / picture.width)), Image.Resampling.LANCZOS
            )
        reduce_colors(picture, 256).save(target, optimize=True)
    print(f"wrote {target.relative_to(DOCS)}, {target.stat().st_size // 1024} KiB")


def make_pages(names):
    """Run the pages that save pictures, in a folder of their own, and take what they show."""
    for page in sorted(DOCS.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        blocks = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
        if ".savefig(" not in "".join(blocks) or (names and page.stem not in names):
            continue
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            namespace = {"__name__": page.name}
            for block in blocks:
                exec(compile(block, page.name, "exec"), namespace)
            for name in sorted(set(re.findall(r"images/(\w+)\.png", text))):
                if Path(folder, f"{name}.png").exists():
                    shrink(Path(folder, f"{name}.png"), IMAGES / f"{name}.png")
            os.chdir(DOCS)
        plt.close("all")


def make_examples(names):
    """Run the examples, and write a picture and a thumbnail of each."""
    (IMAGES / "examples").mkdir(exist_ok=True)
    for example in sorted((DOCS.parent / "examples").glob("plot_*.py")):
        if names and example.stem not in names:
            continue
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            runpy.run_path(str(example), run_name="__main__")
            os.chdir(DOCS)
            number, panel = SHOWN.get(example.stem, (0, 0))
            figure = plt.figure(plt.get_fignums()[number])
            whole = Path(folder, "whole.png")
            figure.savefig(whole, dpi=100, bbox_inches="tight")
            shrink(whole, IMAGES / "examples" / f"{example.stem}.png")
            make_thumbnail(figure, panel, IMAGES / "examples" / f"{example.stem}_thumb.png")
        plt.close("all")


def fill_thumbnail(figure, axes):
    """Give Axes whose sides are free the sides of a thumbnail."""
    axes.set_box_aspect(None)
    width, height = figure.get_size_inches()
    size = min(width / THUMBNAIL[0], height / THUMBNAIL[1]) * 0.9
    wide, high = (size * side for side in THUMBNAIL)
    axes.set_position([0.05, 0.05, wide / width, high / height])


def make_thumbnail(figure, panel, target):
    """Write one panel, without its ticks and titles, on a white ground of one size for all."""
    axes = figure.axes[panel]
    for other in figure.axes:
        other.set_visible(other is axes)
    axes.set(title="", xlabel="", ylabel="")
    axes.tick_params(labelbottom=False, labelleft=False, labeltop=False, labelright=False)
    if axes.get_legend() is not None:
        axes.get_legend().remove()
    for other in [*figure.texts, *figure.legends]:
        other.set_visible(False)
    figure.set_layout_engine("none")
    if axes.get_aspect() == "auto":
        fill_thumbnail(figure, axes)
    figure.canvas.draw()
    box = axes.get_window_extent().transformed(figure.dpi_scale_trans.inverted()).padded(0.03)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "panel.png")
        figure.savefig(path, dpi=300, bbox_inches=box)
        with Image.open(path) as picture:
            picture = picture.convert("RGB")
            picture.thumbnail(THUMBNAIL, Image.Resampling.LANCZOS)
            ground = Image.new("RGB", THUMBNAIL, "white")
            margins = zip(THUMBNAIL, picture.size, strict=True)
            ground.paste(picture, [(whole - part) // 2 for whole, part in margins])
            reduce_colors(ground, 128).save(target, optimize=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["examples"]:
        make_examples(sys.argv[2:])
    else:
        make_pages(sys.argv[1:])

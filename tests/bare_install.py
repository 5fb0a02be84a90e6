"""What must work where no extra is installed: CI runs this as a script in such an environment.

Training, explaining, features, files and the command line need none; what draws, makes a table or
reads a field says which extra it needs, and the command that installs it.
"""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

import sklrp

EXTRAS = {
    "cftime", "dask", "eofs", "h5py", "keras", "matplotlib", "mlxtend", "netCDF4", "pandas",
    "pytest", "pyts", "xarray", "zarr",
}  # fmt: skip


def expect(extra, user, call):
    """Check that a call fails, and says what needs which extra."""
    try:
        call()
        said = "nothing"
    except ImportError as error:
        said = str(error)
    assert said.startswith(user), said
    assert f"pip install 'sklrp[{extra}]'" in said, said


def main():
    there = sorted(name for name in EXTRAS if find_spec(name))
    assert not there, f"{there} are installed, so that this tests nothing"
    X, y, mask = sklrp.datasets.make_squares(n_per_class=20, size=12, random_state=0)
    clf = sklrp.CNNClassifier((4,), max_epochs=3, random_state=0).fit(X, y)
    relevance = clf.explain(X)
    assert relevance.shape == X.shape
    transformer = sklrp.RelevanceTransformer(clf, aggregate="row").fit(X, y)
    assert transformer.transform(X).shape == (40, 12)
    assert 0 <= sklrp.metrics.relevance_mass(relevance, mask).mean() <= 1
    report = sklrp.diagnostics.diagnose(clf, X, y, mask=mask, n_permutations=3, random_state=0)
    assert "skilled" in repr(report)

    with TemporaryDirectory() as folder:
        model, samples = Path(folder, "model.safetensors"), Path(folder, "samples.npy")
        sklrp.save(clf, model)
        assert np.array_equal(sklrp.load(model).explain(X), relevance)
        np.save(samples, X)
        report.to_html(Path(folder, "report.html"))
        for args in (["--help"], ["explain", model, samples, "-o", Path(folder, "out.npy")]):
            subprocess.run([sys.executable, "-m", "sklrp", *args], check=True, cwd=folder)
        np.testing.assert_allclose(
            np.load(Path(folder, "out.npy")), relevance, rtol=1e-4, atol=1e-6
        )

    expect("plot", "Drawing", lambda: sklrp.plotting.RelevanceDisplay.from_relevance(relevance))
    expect("plot", "HistoryDisplay", lambda: sklrp.plotting.HistoryDisplay.from_estimator(clf))
    expect("plot", "ArtifactDisplay", report.plot)
    expect("plot", "to_frame", report.to_frame)
    expect("plot", "to_frame", report.tests["skilled"].to_frame)
    expect("keras", "from_keras", lambda: sklrp.from_keras("model.keras"))
    expect("geo", "load_enso", lambda: sklrp.datasets.load_enso("sst.nc"))
    expect("examples", "load_pacific_sst", sklrp.datasets.load_pacific_sst)


if __name__ == "__main__":
    main()

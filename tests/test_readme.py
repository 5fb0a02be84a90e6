"""The code of the README and of the documentation's pages runs as it stands, block after block."""

import gc
import importlib
import pickle
import re
import shlex
import sys
from collections import defaultdict
from pathlib import Path

import cloudpickle
import numpy as np
import pytest
import torch
from torch import nn

import sklrp
from sklrp import Composite, MLPClassifier, RelevanceTransformer, ZBox, explain
from sklrp.cli import main
from sklrp.propagation import register
from tests.helpers.comparing import assert_close

PACKAGE = Path(sklrp.__file__).parent
README = Path(__file__).parents[1] / "README.md"
DOCS = README.parent / "docs"


def test_readme_prints_what_it_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = README.read_text(encoding="utf-8")
    assert len(text.split()) <= 700
    ((code, printed),) = re.findall(r"```python\n(.*?)```\n```\n(.*?)```", text, re.DOTALL)
    assert len([line for line in code.splitlines() if line]) == 10
    exec(compile(code, "README.md", "exec"), {})
    assert_printed(capsys.readouterr().out, printed)
    assert code in read("index.md")  # which does not run it again


def test_files_that_it_names_exist():
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README.read_text(encoding="utf-8"))
    missing = [link for link in links if not (README.parent / link).exists()]
    assert not missing


def read(page):
    return (DOCS / page).read_text(encoding="utf-8")


def blocks_of(page):
    """Return the blocks of code of a page, each with what stands behind its opening fence."""
    return re.findall(r"^```([^\n]*)\n(.*?)^```$", read(page), re.DOTALL | re.MULTILINE)


# The README's test runs the code of index.md, and `test_mistakes` what fails before it works.
ELSEWHERE = {"index.md", "mistakes.md"}
PAGES = sorted(
    page.name
    for page in DOCS.glob("*.md")
    if "python" in dict(blocks_of(page.name)) and page.name not in ELSEWHERE
)


def test_pages_are_found():
    assert {"networks.md", "adding_a_layer.md", "adding_a_rule.md"} < set(PAGES)


def assert_printed(text, expected):
    """Hold text against what a page says: trained numbers differ a little among processors."""
    numbers = r"(?<![\w.])-?\d+\.\d+"
    assert re.sub(numbers, "#.#", text) == re.sub(numbers, "#.#", expected)
    for found, said in zip(*(re.findall(numbers, t) for t in (text, expected)), strict=True):
        last_digit = 10.0 ** -len(said.partition(".")[2])
        assert float(found) == pytest.approx(float(said), rel=0.02, abs=1.5 * last_digit), text


@pytest.fixture
def figures_closed():
    """Close what a page draws: pyplot warns of more than twenty figures."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.mark.usefixtures("handlers_restored", "figures_closed")
@pytest.mark.parametrize("page", PAGES)
@pytest.mark.slow
def test_code_of_pages_runs_and_prints_what_they_say(page, tmp_path, monkeypatch, capsys):
    """Blocks of Python and of the command line run; one without a language was printed."""
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": page}
    for language, block in blocks_of(page):
        if language == "python":
            exec(compile(block, page, "exec"), namespace)
        elif language == "bash" and block.startswith("python -m sklrp"):
            for line in block.replace("\\\n", "").splitlines():
                run_command(line)
        elif not language:
            assert_printed(capsys.readouterr().out, block)
    if page == "adding_a_layer.md":
        check_added_layers(namespace)
    if page == "adding_a_rule.md":
        check_added_rule(namespace["Power"], tmp_path)


def test_reference_lists_all_that_is_public_once():
    """Modules are on the page; each lists its ``__all__``, without what ``sklrp`` lists."""
    listed = re.findall(r"^   sklrp\.(\w+)$", read("api.md"), re.MULTILINE)
    top = {file.relative_to(PACKAGE).with_suffix("").parts[0] for file in PACKAGE.rglob("*.py")}
    # These are used through `sklrp` itself, by the command line, or by nobody outside.
    inner = {
        "classifiers",
        "cli",
        "composites",
        "drawing",
        "keras",
        "persistence",
        "skill",
        "transformer",
    }
    assert {name for name in top if not name.startswith("_")} - inner == set(listed)
    assert all(hasattr(sklrp, name) for name in sklrp.__all__)
    places = defaultdict(list)
    for module in map(importlib.import_module, (f"sklrp.{name}" for name in listed)):
        for name in module.__all__:
            one = getattr(module, name)
            if name not in sklrp.__all__ or one is not getattr(sklrp, name):
                places[name].append(one)
    for name, objects in places.items():
        assert len(objects) == len({id(one) for one in objects}), f"{name} is in two modules"


def test_every_example_is_on_the_page_of_examples_once():
    files = (README.parent / "examples").glob("plot_*.py")
    shown = re.findall(r"^:link: gallery/(plot_\w+)$", read("examples.md"), re.MULTILINE)
    assert sorted(shown) == sorted(file.stem for file in files)


def test_pictures_of_pages_are_shipped():
    for page in DOCS.glob("*.md"):
        for picture in re.findall(r"\(?(images/[\w/]+\.png)\)?", read(page.name)):
            assert (DOCS / picture).is_file(), f"{page.name}: run `python docs/pictures.py`"


def test_bibliography_has_the_keys_of_the_docstrings():
    sources = [file.read_text(encoding="utf-8") for file in PACKAGE.rglob("*.py")]
    # A key that two modules define has a letter behind the year, to be one of a kind in Sphinx.
    keys = {key for text in sources for key in re.findall(r"\.\. \[(\D+\d{4})[a-z]?\]", text)}
    known = re.findall(r"^\*\*\[(\w+)\]", read("bibliography.md"), re.MULTILINE)
    assert "Bach2015" in keys
    assert keys <= set(known)


def run_command(line):
    """Run a line ``python -m sklrp ...`` in this process; it must succeed."""
    command = shlex.split(line)
    assert command[:3] == ["python", "-m", "sklrp"]
    with pytest.raises(SystemExit) as end:
        main(command[3:], prog_name="python -m sklrp")
    assert end.value.code == 0


def check_added_layers(namespace):
    """The how-to's two made-up layers: relevance sums to the score, and takes every rule."""
    torch.manual_seed(0)
    net = nn.Sequential(
        namespace["Scaled"](4, 6), namespace["Tent"](), nn.Linear(6, 2, bias=False)
    ).double()
    same = nn.Sequential(nn.Linear(4, 6, bias=False), namespace["Tent"](), net[2]).double()
    with torch.no_grad():
        same[0].weight.copy_(2 * net[0].weight)
    X = np.random.default_rng(0).uniform(-1, 1, size=(5, 4))
    boxes = Composite([("first", ZBox(-1.0, 1.0), "first"), ("rest", ZBox(), "all")])
    for rule in ("epsilon", "gamma", "alpha_beta", "w_square", boxes):
        relevance, details = explain(net, X, rule=rule, return_details=True)
        np.testing.assert_allclose(relevance, explain(same, X, rule=rule), rtol=1e-12)
        kept = sum(layer.epsilon + layer.dropped for layer in details.layers)
        np.testing.assert_allclose(relevance.sum(1) + kept, details.score, rtol=1e-9)
        in_processes = explain(net, X, rule=rule, n_jobs=2, batch_size=1)
        np.testing.assert_allclose(in_processes, relevance, rtol=1e-9)
    copied = pickle.loads(cloudpickle.dumps(net))
    assert_close(explain(copied, X, rule="gamma"), explain(net, X, rule="gamma"))
    check_box_behind_the_tent(namespace["Tent"]())
    check_flat_memory(namespace["Scaled"])


def check_box_behind_the_tent(tent):
    """By hand: the tent of (.6, .9) is (.4, .1), and in [0, 1] of an input in [-2, 2].

    With weights (2, -2) the numerators are 2 * .4 - 0 and -2 * .1 + 2 * 1, so that the score of .6
    is shared .8 to 1.8.
    """
    net = nn.Sequential(tent, nn.Linear(2, 1, bias=False)).double()
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[2.0, -2.0]]))
    relevance = explain(net, np.array([[0.6, 0.9]]), rule=ZBox(-2.0, 2.0))
    np.testing.assert_allclose(relevance, [[0.6 * 0.8 / 2.6, 0.6 * 1.8 / 2.6]], rtol=1e-12)


def check_flat_memory(scaled):
    """Weights of 4 MiB are read once: over 200 chunks no copy of them is left."""
    chunks, seen = [], []

    class Probe(nn.Identity):
        def forward(self, x):
            return x

    @register(Probe)
    def probe(step, signal):
        chunks.append(len(signal.x))
        if len(chunks) in (100, 200):
            seen.append(sum(t.numel() for t in gc.get_objects() if type(t) is torch.Tensor))
        return signal, lambda relevance, kept: relevance

    net = nn.Sequential(scaled(1024, 1024), Probe(), nn.Linear(1024, 2))
    X = np.random.default_rng(0).normal(size=(200, 1024)).astype(np.float32)
    explain(net, X, rule="gamma", target=0, batch_size=1)
    early, late = seen
    assert late - early < 1024 * 1024


def check_added_rule(power, folder):
    """The how-to's rule goes to other processes; a file does not hold it, and says why."""
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).double()
    X = np.random.default_rng(0).normal(size=(6, 4))
    in_processes = explain(net, X, rule=power(2.0), n_jobs=2, batch_size=2)
    np.testing.assert_allclose(in_processes, explain(net, X, rule=power(2.0)), rtol=1e-9)
    assert pickle.loads(cloudpickle.dumps(power(2.0))).p == 2.0
    network = MLPClassifier((2,), max_epochs=1, random_state=0)
    transformer = RelevanceTransformer(network, rule=power(2.0)).fit(X, np.arange(6) % 2)
    with pytest.raises(TypeError, match=r"rules of your own cannot .* each call of explain"):
        sklrp.save(transformer, folder / "transformer.safetensors")

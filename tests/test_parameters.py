"""Parameters that classes declare: the constructor, constraints and docstring made of them."""

import inspect
import pickle
import pydoc
import re

import numpy as np
import pytest
from sklearn.base import clone

import sklrp
from sklrp import CNNClassifier, ESNClassifier, LSTMClassifier, MLPClassifier
from sklrp._constraints import COUNT
from sklrp.classifiers.parameters import param
from sklrp.diagnostics import skill_map

POSITIONAL = {
    MLPClassifier: ("hidden_layer_sizes", (100,)),
    CNNClassifier: ("channels", (16, 32)),
    LSTMClassifier: ("hidden_size", 64),
    ESNClassifier: ("n_reservoir", 300),
}
EVERY = pytest.mark.parametrize("Classifier", list(POSITIONAL))


class Patched(CNNClassifier):
    """Classifier with a parameter of its own.

    Parameters
    ----------
    n_patches : int, default=4
        Number of patches.
    lr : float, default=0.5
        Learning rate of a patch.

    Notes
    -----
    It is for a test.
    """

    n_patches: int = param(default=4, allowed=[COUNT])
    lr: float = param(default=0.5)


class Plain(MLPClassifier):
    """Classifier with a constructor of its own."""

    def __init__(self, n_hidden=5):
        super().__init__((n_hidden,))
        self.n_hidden = n_hidden


class PlainChild(Plain):
    """Classifier that inherits a constructor of the user's."""


def read_section(Classifier, name):
    """Return name, type and text of each entry of a section of a docstring."""
    _, _, after = inspect.getdoc(Classifier).partition(f"{name}\n{'-' * len(name)}\n")
    section = re.split(r"\n\n(?=\S)", after)[0]
    return re.findall(r"^(\S+) : (.*)\n((?: {4}.*\n?)+)", section, flags=re.MULTILINE)


@EVERY
def test_signature(Classifier):
    signature = inspect.signature(Classifier)
    first, *others = signature.parameters.values()
    assert (first.name, first.default) == POSITIONAL[Classifier]
    assert first.kind is first.POSITIONAL_OR_KEYWORD
    if Classifier is not ESNClassifier:
        assert others.pop().kind is first.VAR_KEYWORD
    assert {parameter.kind for parameter in others} == {first.KEYWORD_ONLY}
    assert {first.name, *(p.name for p in others)} == set(Classifier().get_params())
    assert all(p.annotation is not p.empty and p.default is not p.empty for p in others)
    assert not any(hasattr(Classifier, parameter.name) for parameter in others)


@EVERY
def test_docstring_lists_the_parameters_with_their_defaults(Classifier):
    listed = read_section(Classifier, "Parameters")
    parameters = inspect.signature(Classifier).parameters.values()
    assert [name for name, _, _ in listed] == [str(p).partition(":")[0] for p in parameters]
    for (name, kind, text), parameter in zip(listed, parameters, strict=True):
        assert text.strip().endswith("."), name
        if parameter.kind is not parameter.VAR_KEYWORD:
            assert eval(kind.rpartition("default=")[2]) == parameter.default, name
    shown = pydoc.plain(pydoc.render_doc(Classifier))
    lines = [line.strip() for _, _, text in listed for line in text.splitlines()]
    assert all(line in shown for line in lines)


@EVERY
def test_docstring_lists_the_attributes_once(Classifier):
    names = [name for name, _, _ in read_section(Classifier, "Attributes")]
    assert {"classes_", "input_shape_", "module_"} < set(names)
    assert ("history_" in names) == (Classifier is not ESNClassifier)
    assert ("ridge_" in names) == (Classifier is ESNClassifier)
    assert len(set(names)) == len(names)


def test_a_subclass_adds_a_parameter_in_one_place():
    parameters = inspect.signature(Patched).parameters
    assert list(parameters)[:3] == ["channels", "n_patches", "input_shape"]
    assert parameters["n_patches"].annotation is int
    assert parameters["lr"].default == 0.5
    assert inspect.signature(CNNClassifier).parameters["lr"].default == 0.003
    clf = Patched((4,), n_patches=2, optimizer__betas=(0.5, 0.9))
    assert clf.get_params()["n_patches"] == 2
    assert clone(clf).get_params() == clf.get_params()
    assert pickle.loads(pickle.dumps(clf)).get_params() == clf.get_params()
    assert clf.set_params(n_patches=3).n_patches == 3
    assert Patched.__doc__.count("lr : float") == 1
    assert "Number of patches." in Patched.__doc__
    assert "Extent of the kernels" in Patched.__doc__
    assert "It is for a test." in Patched.__doc__
    assert "cross-entropy" not in Patched.__doc__
    X, y = np.zeros((8, 9)), np.arange(8) % 2
    with pytest.raises(ValueError, match="'n_patches' parameter of Patched must be an int"):
        clf.set_params(n_patches=0).fit(X, y)
    with pytest.raises(ValueError, match="'lr' parameter of Patched must be a float"):
        Patched(lr=-1.0).fit(X, y)


def test_a_parameter_may_change_only_where_its_class_says_so():
    X, y = np.zeros((8, 9)), np.arange(8) % 2
    clf = Patched((4,), max_epochs=1, warm_start=True).fit(X, y)
    clf.set_params(lr=0.1).fit(X, y)
    with pytest.raises(ValueError, match="n_patches=5 differs from n_patches=4"):
        clf.set_params(n_patches=5).fit(X, y)


def test_a_class_with_a_constructor_keeps_it():
    assert list(inspect.signature(Plain).parameters) == ["n_hidden"]
    assert list(inspect.signature(PlainChild).parameters) == ["n_hidden"]
    assert Plain(3).hidden_layer_sizes == PlainChild(3).hidden_layer_sizes == (3,)
    assert inspect.getdoc(PlainChild) == "Classifier that inherits a constructor of the user's."


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ESNClassifier(n_reservior=3), "ESNClassifier: .*'n_reservior'.*'n_reservoir'"),
        (lambda: ESNClassifier(3, 0.1), "ESNClassifier: too many positional .* leak_rate"),
        (
            lambda: ESNClassifier(3, rule="gamma"),
            r"ESNClassifier: .* belongs to explain\(X, rule=",
        ),
        (lambda: MLPClassifier((3,), hidden_layer_sizes=3), "MLPClassifier: multiple values"),
    ],
)
def test_errors_of_the_constructor(make, message):
    with pytest.raises(TypeError, match=message):
        make()


@pytest.mark.parametrize(
    ("estimator", "name", "meant"),
    [
        ("MLPClassifier", "max_epoch", "'max_epochs'"),
        ("CNNRegressor", "filters", "'channels'"),
        ("LSTMRegressor", "hidden", "'hidden_size' or 'hidden_layer_sizes'"),
        ("ESNClassifier", "seed", "'random_state'"),
        ("ESNRegressor", "units", "'n_reservoir'"),
        ("CNNClassifier", "optimizer_betas", "'optimizer__betas'"),
    ],
)
def test_names_of_other_libraries_are_refused(estimator, name, meant):
    """By `fit` where skorch's parameters are taken, as constructors may not raise."""
    X, y = np.zeros((6, 4)), np.arange(6) % 2
    with pytest.raises(
        (TypeError, ValueError), match=rf"unexpected .*'{name}'.*id you mean {meant}"
    ):
        getattr(sklrp, estimator)(**{name: 1}).fit(X, y)


def test_functions_name_themselves_and_what_is_meant():
    with pytest.raises(TypeError, match=r"skill_map: .*'n_permutation'\. Did you mean 'n_p.*s'"):
        skill_map(None, None, None, n_permutation=3)
    with pytest.raises(
        TypeError, match=r"positional arguments\. Give those after 'y' by name: X_tr"
    ):
        skill_map(None, None, None, None)
    with pytest.raises(TypeError, match=r"skill_map: missing a required argument: 'y'"):
        skill_map(None, None)

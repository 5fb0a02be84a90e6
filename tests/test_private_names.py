"""Private names of other libraries: each in the one file that mends it, and still there."""

import ast
import functools
import importlib
import importlib.util
import inspect
import pkgutil
from collections import OrderedDict
from numbers import Real
from pathlib import Path

import pytest

PACKAGE = Path(importlib.util.find_spec("sklrp").origin).parent  # sklrp itself may not import
HOMES = {"sklearn": "_sklearn.py", "skorch": "_skorch.py", "torch": "_torch.py"}
HOOKS = {"_parameter_constraints", "_sk_visual_block_"}  # what classes define for scikit-learn
LIBRARIES = {
    *HOMES,
    *("click", "dask", "joblib", "matplotlib", "numpy", "pandas", "safetensors", "scipy"),
    *("threadpoolctl", "tqdm", "xarray"),
}
DOCUMENTED = {"_asdict", "_exit", "_fields", "_make", "_replace"}  # of os and of named tuples


def is_private(name):
    return name.startswith("_") and not name.startswith("__") and name.strip("_") != ""


@functools.cache
def nodes_of(file):
    return list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))


def imported(nodes):
    """Yield the private names that a file imports, as (module, name)."""
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            pairs = [(node.module, alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            pairs = [(alias.name, "") for alias in node.names]
        else:
            continue
        for module, name in pairs:
            path = f"{module}.{name}".split(".")
            if path[0] in LIBRARIES and any(map(is_private, path)):
                yield module, name


def attributes(nodes):
    """Yield the private names that a file reads from an object or keeps as a string."""
    for node in nodes:
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            yield node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if node.value.isidentifier() and is_private(node.value):
                yield node.value
        elif isinstance(node, ast.ClassDef):
            yield from (n.name for n in node.body if isinstance(n, ast.FunctionDef))


def defined(nodes):
    """Yield the names that a file defines or sets."""
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


OTHERS = sorted(set(PACKAGE.rglob("*.py")) - {PACKAGE / home for home in HOMES.values()})


@functools.cache
def own_names():
    """Return what the package's other files define."""
    return {name for file in OTHERS for name in defined(nodes_of(file))} - HOOKS


@functools.cache
def names_of(library):
    """Return the private attributes that a library's file uses."""
    names = {name for name in attributes(nodes_of(PACKAGE / HOMES[library])) if is_private(name)}
    return names - HOOKS


def probes():
    """Return for each private attribute of a library an object that must have it."""
    import sklearn.base
    import sklearn.preprocessing
    import skorch
    import torch

    scaler = sklearn.preprocessing.StandardScaler().set_output(transform="default")
    pack = torch.nn.utils.rnn
    return {
        "sklearn": {
            "_get_param_names": sklearn.base.BaseEstimator,
            "_sklearn_output_config": scaler,
            "_validate_params": sklearn.base.BaseEstimator,
        },
        "skorch": {
            "_set_training": skorch.NeuralNet,
            "_uniquely_named_callbacks": skorch.NeuralNet,
        },
        "torch": {
            "_C": torch,
            "_buffers": torch.nn.Module(),
            "_compiled_call_impl": torch.nn.Module(),
            "_conv_forward": torch.nn.Conv2d,
            "_disabled_torch_function_impl": torch._C,
            "_backward_hooks": torch.nn.Module(),
            "_backward_pre_hooks": torch.nn.Module(),
            "_forward_hooks": torch.nn.Module(),
            "_forward_pre_hooks": torch.nn.Module(),
            "_global_forward_hooks": torch.nn.modules.module,
            "_global_forward_pre_hooks": torch.nn.modules.module,
            "_modules": torch.nn.Module(),
            "_version": torch.zeros(1),
            "_orig_mod": torch.compile(torch.nn.Identity()),
            "_pack_padded_sequence": pack._VF,
            "_pad_packed_sequence": pack._VF,
            "_parameters": torch.nn.Module(),
            "_reset_parameters": torch.nn.MultiheadAttention,
            "_schema": torch.ops.aten.relu.default,
            "_threshold": torch.nn.functional,
        },
    }


@pytest.mark.parametrize("file", OTHERS, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_other_files_use_no_private_name(file):
    for module, name in imported(nodes_of(file)):
        home = HOMES.get(module.split(".")[0], "a file of its own")
        pytest.fail(f"{file.name} imports {module}.{name}: let it come from sklrp/{home}")
    used = set(attributes(nodes_of(file))) - own_names()
    foreign = used & {name for library in HOMES for name in names_of(library)}
    foreign |= {
        node.attr
        for node in nodes_of(file)
        if isinstance(node, ast.Attribute) and is_private(node.attr)
    } - {*own_names(), *HOOKS, *DOCUMENTED}
    assert not foreign, f"{file.name} uses {sorted(foreign)}: move it to one of {HOMES}"


def test_classes_override_no_private_name():
    """What a class inherits from another library is overridden in that library's file alone."""
    import sklrp

    for info in pkgutil.walk_packages(sklrp.__path__, "sklrp."):
        if f"{info.name.rpartition('.')[2]}.py" in {"__main__.py", *HOMES.values()}:
            continue
        module = importlib.import_module(info.name)
        for cls in vars(module).values():
            if not inspect.isclass(cls) or cls.__module__ != info.name:
                continue
            bases = [base for base in cls.__mro__ if base.__module__.split(".")[0] in LIBRARIES]
            foreign = {
                name
                for name, value in vars(cls).items()
                if is_private(name) and inspect.isfunction(value)
                if any(name in vars(base) for base in bases)
            }
            assert foreign <= HOOKS, f"{cls} overrides {foreign}: move it to one of {HOMES}"


@pytest.mark.parametrize("library", HOMES)
def test_private_names_are_still_there(library):
    home = PACKAGE / HOMES[library]
    for module, name in imported(nodes_of(home)):
        if name == "_VisualBlock":  # has moved once, and may again: a picture alone depends on it
            continue
        try:
            found = hasattr(importlib.import_module(module), name)
        except ImportError:
            found = False
        assert found, f"{module}.{name} has moved in this release: mend sklrp/{home.name}"


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # at torch.compile's import
@pytest.mark.parametrize("library", HOMES)
def test_private_attributes_are_still_there(library):
    home, expected = HOMES[library], probes()[library]
    assert set(expected) == names_of(library), f"name an object for each name of sklrp/{home}"
    for name, owner in expected.items():
        assert hasattr(owner, name), f"{name} has moved in this release: mend sklrp/{home}"


def test_hooks_are_still_called():
    """scikit-learn reads `_parameter_constraints` and `_sk_visual_block_` of a class."""
    from sklearn.base import BaseEstimator

    from sklrp import _sklearn
    from sklrp._sklearn import Interval, InvalidParameterError, check_own_params, make_visual_block

    class Estimator(BaseEstimator):
        _parameter_constraints = {"a": [Interval(Real, 0, 1, closed="both")]}  # noqa: RUF012

        def __init__(self, a=0.0):
            self.a = a

        def _sk_visual_block_(self):
            return make_visual_block("serial", [OrderedDict()])

    assert set(_sklearn.HOOKS) == HOOKS
    with pytest.raises(InvalidParameterError, match="'a' parameter of Estimator"):
        check_own_params(Estimator(2.0))
    assert "OrderedDict" in Estimator()._repr_html_(), "_sk_visual_block_: mend sklrp/_sklearn.py"


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_compiled_modules_are_unwrapped():
    import torch

    from sklrp._torch import is_compiled, unwrap_compiled

    network = torch.nn.Identity()
    compiled = torch.compile(network)
    assert is_compiled(compiled)
    assert not is_compiled(network)
    assert unwrap_compiled(compiled) is network

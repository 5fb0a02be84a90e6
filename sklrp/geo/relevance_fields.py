"""Relevance as fields: explain gridded data, put maps back on their grid.

`sklrp.geo` makes `explain` and `relevance_to_xarray` public; the command line calls them too.
"""

from __future__ import annotations

import copy
import itertools
import math
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted

from sklrp import _models, propagation
from sklrp._checks import check_number, import_optional, look_up
from sklrp._constraints import constrained
from sklrp._matching import match_target
from sklrp._missing import as_gapped_array, as_plain_array
from sklrp._model_parts import Model, is_regression
from sklrp._outputs import asks_for_all, split_key
from sklrp._overlaps import find_sources
from sklrp._value_range import warn_if_far
from sklrp._wording import say_value
from sklrp.composites import check_rule
from sklrp.geo.coordinates import check_field, even_chunks, is_dataset, is_field
from sklrp.geo.grid import warn_of_other_fields, without_units
from sklrp.geo.output_regions import describe_region, mark_region
from sklrp.geo.vectorizer import (
    GridVectorizer,
    moves_features,
    put_features,
    warn_of_listed_cells,
)
from sklrp.propagation.readings import read_name
from sklrp.propagation.references import check_reference, find_at_target, read_reference
from sklrp.propagation.targets import (
    decode_target,
    encode_target,
    join_labels,
    split_labels,
)

if TYPE_CHECKING:
    from xarray import DataArray, Dataset

TARGET = "target"  # the dimension of the explained classes
# What else than one class is explained, as the attribute "target" says.
PREDICTED = "the predicted class of each sample"
EVERY = "every class"
ONLY = "the only output"  # of regression
EVERY_OUTPUT = "every output"
GIVEN = "a class given for each sample"
GIVEN_OUTPUT = "an output given for each sample"
FUNCTION = "a function of the output"
SEVERAL = "a weighted sum of outputs"
OF_OUTPUT = "unit of the output"


@constrained({"epsilon": "no_validation", "layers": [list, tuple, None]})
def explain(
    estimator: Any,
    data: DataArray | Dataset,
    *,
    vectorizer: GridVectorizer | None = None,
    target: Any = None,
    output: DataArray | Dataset | None = None,
    rule: Any = "auto",
    epsilon: float = 1e-6,
    contrast: bool = False,
    reference: Any = None,
    batch_size: int | None = None,
    n_jobs: int | None = None,
    progress: bool = False,
    layers: list[str] | None = None,
) -> Any:
    """Return the relevance of gridded fields for a class, as fields on the same grid.

    What enters the network is explained: in a pipeline of anomalies, vectorizer, scaler and
    classifier a cell has the relevance of its scaled anomaly, put back in the cell's place. It is
    in units of the explained score (logits, or what a regression predicts), not of the data.

    Parameters
    ----------
    estimator : estimator, skorch net, nn.Module, pipeline, search or FrozenEstimator
        A fitted model, as :func:`sklrp.explain` takes it: a pipeline with a
        :class:`GridVectorizer` among its steps, or a model of the features that `vectorizer`
        gives. Steps before the vectorizer take fields, such as :class:`AnomalyTransformer`; steps
        after it must keep features in place, as scalers do.
    data : DataArray or Dataset
        The fields, on the grid of those in ``fit``.
    vectorizer : GridVectorizer or None, default=None
        The fitted vectorizer whose features `estimator` was fitted on. None (default): the
        pipeline's.
    target : None, label, array-like, "all", dict, tuple, str or callable, default=None
        The class to explain: one label for all samples, one for each, or every class, which adds a
        dimension ``"target"`` after that of the samples. None (default): the predicted class of
        each sample, or the only output. The labels of modules, and of skorch nets of numbered
        classes, are the indices of their outputs.

        Of a network with a gridded output also a region of it, whose sum is explained: a dict of
        labels along the output's dimensions, ``{"lat": slice(-5, 5), "lon": 190.0}``, as in
        xarray's ``sel``, or of a boolean for each value; or a mask, weights or a function, see
        :func:`sklrp.explain`. Where the network returns several outputs by name, the name comes
        first: ``("t2m", {"lat": slice(-5, 5)})``.
    output : DataArray, Dataset or None, default=None
        The grid of the network's output, for a `target` in its coordinates: a field like those
        that it returns. A warning says where it has no value in the target's region, as on land.
        Of a Dataset the variables are the first dimension, ``"variable"``.
    rule : str, Rule or Composite, default="auto"
        How relevance is passed on, see :func:`sklrp.check_rule`.
    epsilon : float, default=1e-6
        Stabiliser of the rules that have none of their own, at least 0, in units of
        pre-activations.
    contrast : bool, default=False
        Whether to explain the target's logit minus the largest of the others.
    reference : {"mean", "zero"}, float, array-like or None, default=None
        The value that a map of zeros stands for, see :func:`sklrp.explain`; the attributes name
        it. None (default): the mean of the targets for regressors of this package, else zero.
    batch_size : int or None, default=None
        Number of samples that are explained at once. None (default) takes what keeps memory low.
    n_jobs : int or None, default=None
        Number of joblib's workers. None (default): one.
    progress : bool, default=False
        Whether to show a progress bar. For dask input, use dask's own.
    layers : list of str or None, default=None
        Names of layers of the network, see :func:`sklrp.explain`: the relevance at their outputs
        is returned too. Not of dask input.

    Returns
    -------
    relevance : DataArray or Dataset
        The relevance, with the dimensions and coordinates of `data`, NaN in cells that are not
        valid; for a Dataset, one variable for each of its own. The attributes say what it is:
        ``long_name``, ``units``, ``rule``, ``epsilon``, ``target``, ``contrast``, ``estimator``
        and ``sklrp_version``; of a regressor, and with a `reference`, also ``reference``, as it
        was given, and ``reference_value``, that of the explained score in the target's units (of
        each output, where several are explained). ``to_netcdf``, ``to_zarr`` and :func:`write`
        keep them.

        For dask input the result is lazy, computed chunk by chunk over the samples with a copy of
        the model taken now. Each chunk of samples is loaded over the whole grid; chunks that part
        the grid are merged first.
    at_layers : dict of str to DataArray
        Only with `layers`: the relevance at the output of each, along the samples, the targets if
        there are several, and the network's own axes, ``"axis1"`` and so on.

    Raises
    ------
    TypeError
        If `data` is no field, or `estimator` cannot explain, has no vectorizer or moves features.
    ValueError
        If the grid or its mask differs from that in ``fit``, or a parameter is malformed.
    NotFittedError
        If `estimator` is not fitted.

    See Also
    --------
    sklrp.explain : Relevance of arrays, for any network of torch.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklrp import MLPClassifier
    >>> from sklrp.geo import GridVectorizer, explain
    >>> sst = xr.DataArray(
    ...     np.random.default_rng(0).normal(size=(20, 2, 3)),
    ...     {"time": np.arange(20), "lat": [-2.5, 2.5], "lon": [190.0, 195.0, 200.0]},
    ... )
    >>> pipeline = make_pipeline(GridVectorizer(), MLPClassifier((8,), random_state=0))
    >>> pipeline = pipeline.fit(sst, sst[:, 0, 0] > 0)
    >>> relevance = explain(pipeline, sst, rule="epsilon")
    >>> relevance.dims, relevance.attrs["units"], relevance.attrs["rule"]
    (('time', 'lat', 'lon'), 'logit', 'epsilon')
    """
    check_number("epsilon", epsilon, minimum=0)
    check_field(data, "explain")
    sources = _list_sources(data)  # before it is loaded
    before, chain = _take_apart(estimator, vectorizer)
    target = _as_labels(match_target(target, data), chain.model.classes)
    for step in before:
        data = step.transform(data)
        check_field(data, f"the step after {type(step).__name__}", "X")
    data = even_chunks(data)
    chain.vectorizer.grid_.check(data)
    warn_of_other_fields(chain.vectorizer.grid_.template, data)
    if _names_output(chain, data, target):
        target = (target,)
    said = describe_target(target, is_regression(chain.model.network), chain.has_labels)
    key, region = _split_region(target, chain.has_labels)
    if region is not None:
        mask = mark_region(region, output, chain.vectorizer.grid_.sample_dim)
        columns = getattr(chain.model.network, "n_outputs_", None)  # of this package's regressors
        if columns is not None and mask.ndim > 1:
            raise ValueError(
                f"target={said} is a region of a grid, but {type(chain.model.network).__name__} "
                f"predicts {columns} columns: give a weight of each of them and leave output out, "
                "target=grid.transform(field * 0 + inside)[0], with the GridVectorizer that made "
                "the columns of the field, and inside, a mask such as sklrp.geo.box_mask(field, "
                "lat=(30, 50), lon=(220, 240)); divided by its sum it is the region's mean."
            )
        target = mask if key is None else (key, mask)
    elif output is not None:
        raise ValueError(
            "output is the grid of a target in coordinates, such as {'lat': slice(-5, 5)}, but "
            f"target={said}: leave output out."
        )
    of_outputs = is_of_outputs(target, chain.has_labels)
    labels = _list_labels(chain, data, target, of_outputs)
    settings = {
        "rule": rule,
        "epsilon": epsilon,
        "contrast": contrast,
        "reference": reference,
        "batch_size": batch_size,
        "n_jobs": n_jobs,
        "progress": progress,
    }
    attrs = describe_relevance(
        chain.model.network, chain.model.name, rule, epsilon, said, contrast, reference
    )
    network = chain.model.network
    if "reference_value" in attrs:
        attrs["reference_value"] = _find_reference(chain, data, target, reference, attrs)
    if of_outputs and not (is_regression(network) or hasattr(network, "classes_")):
        attrs["units"] = OF_OUTPUT  # of a network that says no more than that
    known: dict[str, Any] = {
        "target": target,
        "classes": labels if asks_for_all(target) else None,
        "settings": settings,
        "attrs": attrs,
    }
    if layers is not None:
        fields, found = _explain_with_layers(data, layers, chain=chain, **known)
        return _with_sources(fields, sources), found
    if not data.chunks:
        return _with_sources(_explain_fields(data, chain=chain, **known), sources)
    _check_call(chain, data, labels, target, settings)
    return _with_sources(_explain_lazily(data, chain, **known), sources)


class _Chain(NamedTuple):
    """What turns fields into what enters a network, and the model."""

    vectorizer: GridVectorizer
    after: list[Any]
    model: Model

    @property
    def has_labels(self) -> bool:
        """Whether a target is a label of a class, and not an index or a part of the output."""
        return self.model.classes is not None

    def enter(self, data: Any) -> Any:
        """Return what enters the network."""
        X: Any = self.vectorizer.transform(data)
        for step in self.after:
            X = step.transform(X)
        return X


def _take_apart(estimator: Any, vectorizer: Any) -> tuple[list[Any], _Chain]:
    """Return the steps before the vectorizer, which take fields, and the rest of a model."""
    if vectorizer is not None and not isinstance(vectorizer, GridVectorizer):
        raise TypeError(
            f"vectorizer must be a fitted GridVectorizer or None, got {say_value(vectorizer)}."
        )
    model = _models.unwrap(estimator)
    steps = [] if model.before is None else [step for _, step in model.before.steps]
    steps = [step for step in steps if step not in (None, "passthrough")]
    at = [i for i, step in enumerate(steps) if isinstance(step, GridVectorizer)]
    if len(at) + (vectorizer is not None) != 1:
        raise TypeError(
            "explain needs one GridVectorizer, the step of a pipeline or vectorizer=..., got "
            f"{len(at)} in {type(estimator).__name__} and vectorizer={vectorizer!r}: without it "
            "nothing says which cell a feature is. make_pipeline(GridVectorizer(), network)"
            ".fit(data, y) has one."
        )
    if vectorizer is not None:
        before, chain = [], _Chain(vectorizer, steps, model)
    else:
        before, chain = steps[: at[0]], _Chain(steps[at[0]], steps[at[0] + 1 :], model)
    check_is_fitted(chain.vectorizer)
    if not isinstance(getattr(chain.vectorizer.grid_, "sample_dim", None), str):
        raise TypeError(
            "the GridVectorizer was fitted on an array, so that the grid of the data cannot be "
            "compared: fit it on a DataArray or Dataset."
        )
    _check_in_place(chain)
    warn_of_listed_cells(chain.vectorizer, chain.model.network)
    return before, chain


def _check_in_place(chain: _Chain) -> None:
    """Raise an error unless the steps after the vectorizer keep its features in their places."""
    for step in chain.after:
        if moves_features(chain.vectorizer, step) is not False:
            raise TypeError(
                f"{type(step).__name__} is between GridVectorizer and the classifier, but does "
                "not keep features in place (its get_feature_names_out does not return the names "
                "it is given), so that relevance has no place on the grid. Remove it and fit on "
                "the cells; scalers, and FunctionTransformer(..., feature_names_out="
                "'one-to-one'), are fine. To explain what it makes, such as the components of "
                "PCA, sklrp.explain(pipeline, data), an array."
            )


def _list_labels(chain: _Chain, data: Any, target: Any, of_outputs: bool) -> list[Any]:
    """Return the labels of the outputs, [] where `target` asks for none."""
    if isinstance(target, tuple) and asks_for_all(target):  # of an output by name
        first = data.isel({chain.vectorizer.grid_.sample_dim: slice(1)})
        shape = read_name(chain.model, chain.enter(first), target[0]).output_shape
        return list(range(math.prod(shape)))
    if target is None or of_outputs:
        return []
    classes = chain.model.classes
    if classes is None:  # labels are the indices of outputs, which one sample counts
        first = data.isel({chain.vectorizer.grid_.sample_dim: slice(1)})
        classes = chain.model.classes_for(chain.enter(first))
    if classes is None:
        own = getattr(chain.model.network, "n_outputs_", 1)  # of a regressor
        return list(range(own))
    return np.asarray(classes).tolist()


def _names_output(chain: _Chain, data: Any, target: Any) -> bool:
    """Tell whether a text names one of several outputs, and no class."""
    model = chain.model
    if not isinstance(target, str) or asks_for_all(target) or model.classes is not None:
        return False
    first = data.isel({chain.vectorizer.grid_.sample_dim: slice(1)})
    return model.takes_tensors and isinstance(model.returned(chain.enter(first)), Mapping)


def _as_labels(target: Any, classes: Any) -> Any:
    """Return labels that are true or false as such, and not as a mask of outputs."""
    of_truth = classes is not None and np.asarray(classes).dtype.kind == "b"
    if of_truth and not callable(target) and np.ndim(target) == 1:
        return np.asarray(target).astype(object)
    return target


def is_of_outputs(target: Any, has_labels: bool = False) -> bool:
    """Return whether a target is made of outputs, and names no class and no index."""
    if callable(target) or isinstance(target, tuple):
        return True
    if isinstance(target, Mapping):
        return False
    found = as_plain_array(target, "target")
    return found.ndim > 1 or (
        found.ndim == 1 and found.dtype.kind in ("b" if has_labels else "bf")
    )


def _split_region(target: Any, has_labels: bool) -> tuple[str | None, dict[str, Any] | None]:
    """Return the name of the output and the coordinates on it that a target holds, else None."""
    key, rest = (None, target) if has_labels else split_key(target)
    return (key, rest) if isinstance(rest, dict) else (None, None)


def describe_relevance(
    network: Any,
    name: str,
    rule: Any,
    epsilon: float,
    target: str,
    contrast: bool,
    reference: Any = None,
) -> dict[str, Any]:
    """Return the attributes of relevance: what it is, and how it was made."""
    units = "unit of the prediction" if is_regression(network) else "logit"
    attrs = {
        "long_name": "relevance",
        "units": units,
        "sklrp_version": version("sklrp"),
        "rule": rule if isinstance(rule, str) else repr(rule),
        "epsilon": float(epsilon),
        "target": target,
        "contrast": int(contrast),
        "estimator": name,
    }
    return attrs | _describe_reference(network, reference)


def _describe_reference(network: Any, reference: Any) -> dict[str, Any]:
    """Say for which value a map of zeros stands, {} where it is a logit of zero as ever."""
    mean = getattr(network, "target_mean_", None)
    if reference is None and mean is None:
        return {}
    reference = "mean" if reference is None else reference
    check_reference(reference, has_mean=mean is not None)
    shape = np.shape(reference) if mean is None else np.shape(mean)
    values = read_reference(reference, shape, mean)
    value = float(values.flat[0]) if values.size == 1 else values.ravel().tolist()
    return {
        "reference": reference if isinstance(reference, str) else value,
        "reference_value": value,
    }


def _find_reference(
    chain: _Chain, data: Any, target: Any, reference: Any, attrs: dict[str, Any]
) -> Any:
    """Return the reference of what is explained, that of each output where these are several."""
    network, known = chain.model.network, attrs["reference_value"]
    its_own = split_labels(target, chain.has_labels)[1] is not None  # each sample has a label
    of_name = not chain.has_labels and split_key(target)[0] is not None
    if target is None or asks_for_all(target) or its_own or of_name:
        return known
    mean = getattr(network, "target_mean_", None)
    if mean is None:
        first = chain.enter(data.isel({chain.vectorizer.grid_.sample_dim: slice(1)}))
        shape = chain.model.output_shape(first)
    else:
        shape = np.shape(mean)
    values = read_reference("mean" if reference is None else reference, shape, mean)
    classes = chain.model.classes
    labels = None if classes is None else np.asarray(classes)
    decoded: Any = decode_target(target, labels, 1, shape)  # not None, as target is not
    return float(find_at_target(values, decoded, 1)[0])


def describe_target(target: Any, regression: bool = False, has_labels: bool = False) -> str:
    """Say in words what is explained, of a model of classes or of a regression."""
    if target is None:
        return ONLY if regression else PREDICTED
    if isinstance(target, str) and asks_for_all(target):
        return EVERY_OUTPUT if regression else EVERY
    if isinstance(target, dict):
        return describe_region(target)
    if isinstance(target, tuple) and target and isinstance(target[0], str):  # an output by name
        key, rest = split_key(target)
        return f"output {key!r}" + (
            "" if rest is None else f", {describe_target(rest, regression=True)}"
        )
    if is_of_outputs(target, has_labels):
        if callable(target) or isinstance(target, tuple):
            return FUNCTION if callable(target) else str(target)
        values = np.asarray(target)
        marked = values.dtype.kind == "b" and values.ndim == 1
        return f"sum of the outputs {np.flatnonzero(values).tolist()}" if marked else SEVERAL
    if np.ndim(target):
        return GIVEN_OUTPUT if regression else GIVEN
    return str(target)


def explained_class(relevance: Any) -> str:
    """Return the one class that fields of relevance explain, "" if each has its own."""
    field = next(iter(relevance.data_vars.values())) if is_dataset(relevance) else relevance
    if TARGET in field.coords and field[TARGET].ndim == 0:  # selected from those of every class
        return str(field[TARGET].item())
    target = field.attrs.get("target", PREDICTED)
    several = (PREDICTED, EVERY, GIVEN, ONLY, EVERY_OUTPUT, GIVEN_OUTPUT)
    return "" if target in several else str(target)


def _check_call(
    chain: _Chain, data: Any, labels: list[Any], target: Any, settings: dict[str, Any]
) -> None:
    """Raise now what would else be raised later, when half of a file may be written."""
    check_rule(settings["rule"])
    sample_dim = chain.vectorizer.grid_.sample_dim
    n_samples = data.sizes[sample_dim]
    of_outputs = is_of_outputs(target, chain.has_labels)
    key, each = split_labels(target, chain.has_labels)
    if each is not None and len(each) != n_samples:
        raise ValueError(
            f"target has {len(each)} labels for {n_samples} samples: give one for each."
        )
    if not (target is None or asks_for_all(target) or of_outputs):
        unknown = look_up(as_plain_array(target, "target"), np.asarray(labels), exact=True)[1]
        if unknown:
            raise ValueError(
                f"target has the unknown label{'s' * (', ' in unknown)} {unknown}; the classes "
                f"are {labels}, or 'all', or None for the predicted class."
            )
    if chain.model.classes is not None and not callable(target):
        encode_target(target, np.asarray(chain.model.classes), n_samples)
    asks_network = of_outputs or settings["contrast"] or settings["reference"] is not None
    if chain.model.has_explain and not asks_network:
        with warnings.catch_warnings():  # they come with the maps
            warnings.simplefilter("ignore")
            propagation.plan(chain.model.network, settings["rule"], epsilon=settings["epsilon"])
        return
    # Places of the rule, rivals, references, functions of the output: one sample tells.
    first = chain.enter(data.isel({sample_dim: slice(1)}))
    its = target if each is None else join_labels(key, each[:1])
    if of_outputs and not isinstance(target, tuple) and np.ndim(target) == 1:
        # Weights, unless they may be indices of all samples, which a chunk does not tell.
        decode_target(target, None, n_samples, chain.model.output_shape(first))
    propagation.explain(chain.model.network, first, target=its, **settings)


def _explain_fields(
    data: Any,
    given: Any = None,
    *,
    indexes: dict[Any, Any] | None = None,
    chain: _Chain,
    target: Any,
    classes: list[Any] | None,
    settings: dict[str, Any],
    attrs: dict[str, Any],
    is_chunk: bool = False,
) -> Any:
    """Return the relevance of fields in memory; `given` are the labels of a chunk, if given."""
    target = target if given is None else join_labels(target[0], given.values)
    if indexes:
        found = _explain_fields(
            _give_levels(data, indexes), chain=chain, target=target, classes=classes,
            settings=settings, attrs=attrs, is_chunk=is_chunk,
        )  # fmt: skip
        return found.drop_vars(_names_of_levels(found))
    entering = chain.enter(data)
    if not is_chunk:  # a worker's warnings would come once for each chunk
        warn_if_far(chain.model, entering, name="data")
    maps = propagation.explain(chain.model.network, entering, target=target, **settings)
    return relevance_to_xarray(maps, chain.vectorizer, like=data, classes=classes, attrs=attrs)


def _explain_with_layers(
    data: Any,
    layers: list[str],
    *,
    chain: _Chain,
    target: Any,
    classes: list[Any] | None,
    settings: dict[str, Any],
    attrs: dict[str, Any],
) -> tuple[Any, dict[str, DataArray]]:
    """Return the relevance of fields in memory, and that at the outputs of layers."""
    xr = import_optional("xarray", extra="geo", user="sklrp.geo")

    if data.chunks:
        raise ValueError(
            f"layers={layers!r} of dask input: load the samples that are meant, data.load(), or "
            "leave layers out."
        )
    maps, details = propagation.explain(
        chain.model.network, chain.enter(data), target=target, layers=layers, **settings
    )
    fields = relevance_to_xarray(maps, chain.vectorizer, like=data, classes=classes, attrs=attrs)
    sample_dim = chain.vectorizer.grid_.sample_dim
    coords = {name: c for name, c in data.coords.items() if c.dims == (sample_dim,)}
    dims = [sample_dim]
    if classes is not None:
        dims, coords = [sample_dim, TARGET], {**coords, TARGET: classes}
    found = {}
    for name, values in details.layer_relevance.items():
        axes = [f"axis{k}" for k in range(1, values.ndim - len(dims) + 1)]
        about = {**attrs, "long_name": f"relevance at the output of {name!r}"}
        found[name] = xr.DataArray(values, coords, [*dims, *axes], "relevance", about)
    return fields, found


def _explain_chunk(
    data: Any, given: Any, chain: _Chain, form: dict[Any, tuple], **known: Any
) -> list[NDArray]:
    """Return the relevance of a chunk of samples, an array for each variable of the result."""
    # Of units that are not those of fit a warning was given before.
    found = _explain_fields(without_units(data), given, chain=chain, is_chunk=True, **known)
    fields = found if is_dataset(found) else {None: found}
    return [np.asarray(fields[name].transpose(*dims).values) for name, dims in form.items()]


def _explain_lazily(data: Any, chain: _Chain, *, target: Any, classes: Any, **known: Any) -> Any:
    """Return the relevance of fields in dask, chunk by chunk over the samples."""
    xr = import_optional("xarray", extra="geo", user="sklrp.geo")

    sample_dim = chain.vectorizer.grid_.sample_dim
    data = _chunk_samples(data, sample_dim)
    # dask hands no index of several levels on: each chunk gets that of its cells back, and the
    # result that of the samples.
    indexes = {dim: index for dim, index in data.indexes.items() if index.nlevels > 1}
    indexes = {dim: index for dim, index in indexes.items() if dim in data.dims}
    data = data.drop_vars(_names_of_levels(data))
    key, each = split_labels(target, chain.has_labels)
    labels = None
    if each is not None:
        labels, target = xr.DataArray(each, dims=sample_dim), (key,)
    template = _make_template(data, sample_dim, classes)
    known |= {"target": target, "classes": classes}
    known["indexes"] = {dim: index for dim, index in indexes.items() if dim != sample_dim}
    filled = _fill_template(template, data, labels, copy.deepcopy(chain), known)
    result = _with_attributes(filled.assign_attrs(data.attrs), known["attrs"])
    return _give_levels(result, indexes)


def _fill_template(
    template: Any, data: Any, labels: Any, chain: _Chain, known: dict[str, Any]
) -> Any:
    """Return the template with the relevance of each chunk of samples, by a task for each."""
    import dask
    import dask.array

    sample_dim = chain.vectorizer.grid_.sample_dim
    # A task of its own, which a worker gets once, and not with every chunk.
    model = dask.delayed(chain, pure=False, traverse=False)
    work = dask.delayed(_explain_chunk, pure=False)
    fields = dict(template.data_vars) if is_dataset(template) else {None: template}
    form = {name: field.dims for name, field in fields.items()}
    pieces: dict[Any, list[Any]] = {name: [] for name in fields}
    ends = np.cumsum([0, *data.chunksizes[sample_dim]]).tolist()
    for span in itertools.starmap(slice, itertools.pairwise(ends)):
        rows = {sample_dim: span}
        given = None if labels is None else labels.isel(rows)
        found = work(data.isel(rows), given, model, form, **known)
        for k, (name, field) in enumerate(fields.items()):
            sizes = {**field.sizes, sample_dim: span.stop - span.start}
            shape = tuple(sizes[d] for d in field.dims)
            pieces[name].append(dask.array.from_delayed(found[k], shape, field.dtype))
    arrays = {
        name: dask.array.concatenate(parts, axis=fields[name].dims.index(sample_dim))
        for name, parts in pieces.items()
    }
    if is_dataset(template):
        return template.assign({name: fields[name].copy(data=a) for name, a in arrays.items()})
    return template.copy(data=arrays[None])


def _give_levels(data: Any, indexes: dict[Any, Any]) -> Any:
    """Return data with indexes of several levels along its dimensions."""
    xr = import_optional("xarray", extra="geo", user="sklrp.geo")

    for dim, index in indexes.items():
        data = data.assign_coords(xr.Coordinates.from_pandas_multiindex(index, dim))
    return data


def _names_of_levels(data: Any) -> list[Any]:
    """Return the names of the coordinates that belong to indexes of several levels."""
    return [name for name, index in data.indexes.items() if index.nlevels > 1]


def _chunk_samples(data: Any, sample_dim: str) -> Any:
    """Return data in dask in chunks of whole fields."""
    space = [dim for dim in data.dims if dim != sample_dim]
    parted = any(len(data.chunksizes.get(dim, ())) > 1 for dim in space)
    chunks: dict[Any, Any] = dict.fromkeys(space, -1)
    # A variable that is in memory takes the chunks of the others.
    return data.chunk({**chunks, sample_dim: "auto" if parted else data.chunksizes[sample_dim]})


def _make_template(data: Any, sample_dim: str, classes: list[Any] | None) -> Any:
    """Return lazy fields of the form that the relevance of data has."""
    xr = import_optional("xarray", extra="geo", user="sklrp.geo")

    fields = list(data.data_vars.values()) if is_dataset(data) else [data]
    dtype = np.result_type(*(f.dtype if f.dtype.kind == "f" else np.float64 for f in fields))

    def form(field: DataArray) -> DataArray:
        zeros = xr.zeros_like(field, dtype=dtype)
        if classes is None:
            return zeros
        return zeros.expand_dims({TARGET: classes}, field.dims.index(sample_dim) + 1)

    return data.map(form) if is_dataset(data) else form(data)


@constrained({"attrs": [dict, None]})
def relevance_to_xarray(
    relevance: ArrayLike,
    grid: GridVectorizer | DataArray,
    *,
    like: DataArray | Dataset | None = None,
    classes: ArrayLike | None = None,
    attrs: dict[str, Any] | None = None,
) -> Any:
    """Return relevance as fields.

    Use it for relevance that was computed on arrays: by ``explain`` of a classifier, by
    :func:`sklrp.explain`, by :class:`~sklrp.RelevanceTransformer` or by another package.

    Parameters
    ----------
    relevance : array-like of shape (n_samples, ...) or (n_samples, n_classes, ...)
        The relevance, in the layout of what was explained.
    grid : GridVectorizer or DataArray
        The fitted vectorizer that made the input of the network; or a field of the shape of
        `relevance`, whose missing cells get none.
    like : DataArray, Dataset or None, default=None
        With a vectorizer, fields whose samples were explained: gives the coordinates of the
        samples and the order of the dimensions.
    classes : array-like of shape (n_classes,) or None, default=None
        The labels of the second axis of `relevance`, as with ``target="all"``; it becomes the
        dimension ``"target"``. None: there is no such axis.
    attrs : dict or None, default=None
        Attributes beside ``long_name``, ``units`` and ``sklrp_version``, or instead of them.

    Returns
    -------
    DataArray or Dataset
        The fields, NaN in cells that are not valid.

    Raises
    ------
    TypeError
        If `grid` is neither.
    ValueError
        If `relevance` does not fit it.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from sklrp.geo import relevance_to_xarray
    >>> sst = xr.DataArray([[1.0, np.nan]], {"time": [0], "lon": [190, 195]})
    >>> relevance_to_xarray([[0.5, 0.0]], sst).values
    array([[0.5, nan]])
    """
    values = as_gapped_array(relevance, "relevance")
    labels = None if classes is None else as_plain_array(classes, "classes")
    if labels is not None and labels.ndim != 1:
        raise ValueError(f"classes must be a list of labels, got {say_value(classes)}.")
    if labels is not None and (values.ndim < 2 or values.shape[1] != len(labels)):
        raise ValueError(
            f"classes has {len(labels)} labels, but relevance the shape {values.shape}: its "
            "second axis must be the axis of the classes."
        )
    if isinstance(grid, GridVectorizer):
        result = put_features(
            grid, values, like, None if labels is None else (TARGET, labels), name="relevance"
        )
        if isinstance(result, np.ndarray):  # of a vectorizer that was fitted on an array
            return result
    elif is_field(grid) and not is_dataset(grid):
        result = _put_on_field(values, grid, labels)
    else:
        raise TypeError(
            f"grid must be a GridVectorizer or a DataArray, got {type(grid).__name__}."
            + (" Of a Dataset, pass the vectorizer." if is_dataset(grid) else "")
        )
    return _with_attributes(result, attrs or {})


def _put_on_field(values: NDArray, field: DataArray, labels: NDArray | None) -> DataArray:
    """Return relevance with the coordinates of the field that it explains."""
    xr = import_optional("xarray", extra="geo", user="sklrp.geo")

    dims, shape = list(field.dims), list(field.shape)
    if labels is not None:
        dims.insert(1, TARGET)
        shape.insert(1, len(labels))
    if values.shape != tuple(shape):
        raise ValueError(
            f"relevance has the shape {values.shape}, but the field {tuple(field.shape)}"
            f"{'' if labels is None else f' and {len(labels)} classes'}: pass the field that was "
            "explained, or the GridVectorizer that made features of it."
        )
    result = xr.DataArray(values, dims=dims).assign_coords(field.coords)
    result = result.where(field.notnull()).transpose(*dims)
    return result if labels is None else result.assign_coords({TARGET: labels})


def _with_attributes(result: Any, attrs: dict[str, Any]) -> Any:
    """Return fields with the attributes of relevance, a DataArray with its name."""
    known = {
        "long_name": "relevance",
        "units": "logit",
        "sklrp_version": version("sklrp"),
        **attrs,
    }
    if is_dataset(result):
        return result.assign({name: _set_attrs(result[name], known) for name in result.data_vars})
    return _set_attrs(result, known).rename("relevance")


def _list_sources(data: Any) -> dict[Any, str]:
    """Return the file of each variable of data, and that of all under None, where it is known."""
    fields = {None: data, **(data.data_vars if is_dataset(data) else {})}
    found = {}
    for name, field in fields.items():
        sources = find_sources(field.drop_vars(list(field.coords)))  # these keep theirs
        if sources:
            named = field.encoding.get("source")
            found[name] = named if named in sources else min(sources)
    return found


def _with_sources(result: Any, sources: dict[Any, str]) -> Any:
    """Return relevance whose encoding names the file of the data, which `write` then spares."""
    fields = {None: result, **(result.data_vars if is_dataset(result) else {})}
    for name, field in fields.items():
        if name in sources:
            field.encoding = {**field.encoding, "source": sources[name]}
    return result


def _set_attrs(field: DataArray, attrs: dict[str, Any]) -> DataArray:
    """Return a field with these attributes instead of its own."""
    return field.drop_attrs(deep=False).assign_attrs(attrs)

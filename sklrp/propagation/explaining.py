"""The public entry: explain a model of any kind, or show its plan.

A model is taken apart by :func:`sklrp._models.unwrap`; an estimator of this package explains
itself, any other network is explained by :mod:`sklrp.propagation.run`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from sklrp._checks import as_samples, check_flags, check_number
from sklrp._keywords import named
from sklrp._matching import match_target
from sklrp._missing import as_plain_array
from sklrp._model_parts import is_regression, without_wrapper
from sklrp._models import unwrap
from sklrp._outputs import split_key
from sklrp._overlaps import check_apart
from sklrp._rows import is_stream
from sklrp._stored import is_stored
from sklrp.propagation.compilation import compile_plan
from sklrp.propagation.inputs import Inputs, Intake
from sklrp.propagation.piecemeal import explain_piecemeal
from sklrp.propagation.plans import Plan
from sklrp.propagation.probing import Probe
from sklrp.propagation.run import explain_network, plain_arithmetic
from sklrp.propagation.targets import encode_target


@named
def explain(
    model: Any,
    X: Any,
    *,
    target: Any = None,
    rule: Any = "auto",
    epsilon: float = 1e-6,
    contrast: bool = False,
    batch_size: int | None = None,
    n_jobs: int | None = None,
    progress: bool = False,
    return_details: bool = False,
    check: bool | str = "auto",
    layers: Any = None,
    reference: Any = None,
    out: Any = None,
) -> Any:
    r"""Explain a fitted network: relevance of each value of ``X`` for a score, by LRP.

    Relevance starts at the score of the target (a logit) and is passed back layer by layer, by the
    rule of each layer. It is in units of that score. The network acts as in evaluation mode and is
    not changed.

    Parameters
    ----------
    model : estimator, skorch net, torch.nn.Module, Pipeline, search or FrozenEstimator
        A fitted classifier of this package, a fitted skorch ``NeuralNet``, or any module whose
        ``forward`` is made of supported layers and functions (``sklrp.propagation.supported()``);
        or a pipeline that ends in one of them, a search over them, a ``FrozenEstimator``.
        Relevance is that of what enters the network: behind a pipeline's steps that is what they
        return, whose features may be others than those of ``X``.
    X : array-like or Tensor of shape (n_samples, ...), tuple or dict of them
        The input, as the model takes it: a tuple for ``forward(*X)``, a dict for ``forward(**X)``.
        A memmap, an array of zarr, h5py or dask and a chunked DataArray are read part by part, and
        an iterator, such as a generator, batch by batch.
    target : None, label, array-like, "all", tuple, str or callable, default=None
        What is explained: None the predicted class of each sample (or the only output), a label,
        one label per sample, or every class (also where a class is named "all"). The labels of a
        bare module are the indices of its outputs, and so are those of a skorch net whose classes
        are numbers: a net of a single output has target 0 alone.

        Of a bare module with an output of shape (n_samples, ...) also a tuple of indices; a
        boolean mask over the output, whose sum is explained (``mask / mask.sum()`` for its
        mean); or weights over the output, as floats. Where it returns several outputs by name,
        the name comes first: ``"name"`` or ``("name", ...)``. Of any network a function of the
        output, a tensor in and one of shape (n_samples,) out.
    rule : str, Rule or Composite, default="auto"
        See :func:`sklrp.check_rule`.
    epsilon : float, default=1e-6
        The stabiliser of the rules without one of their own, and of sums and means of signals
        whatever the rule, at least 0, in units of pre-activations.
    contrast : bool, default=False
        Explain the target's logit minus the largest of the others.
    batch_size : int or None, default=None
        Samples per chunk; None chooses it such that memory stays bounded.
    n_jobs : int or None, default=None
        Number of joblib workers that share the chunks; for machines with many cores.
    progress : bool, default=False
        Whether to show a progress bar.
    return_details : bool, default=False
        Whether to return ``(relevance, details)``.
    check : bool or "auto", default="auto"
        How much is compared with the network's own forward, run plainly: its scores with those
        that are explained, and the relevance of each layer with what the layer passes on and
        keeps. "auto" compares a few samples before all others, two of every chunk of 64 or more,
        and whole chunks where arguments of functions change from call to call. True compares
        everything, at about the cost of one more explanation; False a few samples, once. Up to 16
        maps in one chunk are themselves what is compared.
    layers : list of str or None, default=None
        Names of layers, as in ``module.named_modules()``, blocks too: the relevance that arrives
        at their outputs is returned in the details, which are then returned in any case. Of a
        layer that forward calls several times ``"name#2"`` is the second call; of one that returns
        several tensors ``"name"`` is the first and ``"name[1]"`` the second.
    reference : {"mean", "zero"}, float, array-like or None, default=None
        The value of the output from which it is explained, and for which a map of zeros stands:
        one number for all outputs or one for each, in the unit of the score. None (default): the
        mean of the training data for regressors of this package, which take ``"mean"`` too, and
        else zero. The map stays as it is; the details tell the share of the reference.
    out : array, tuple or dict of them, or None, default=None
        Where relevance is written, of its shape and any floating dtype: an array of NumPy or zarr,
        or a file, :func:`numpy.lib.format.open_memmap`; it is returned. After an error a part of
        it may be written. None (default): a new array.

    Returns
    -------
    relevance : ndarray or Tensor of X's shape, or of the shape of what enters the network
        The relevance, in X's floating dtype (the model's, if X holds integers). With
        ``target="all"`` of shape (n_samples, n_classes, ...). A tensor if X is one; of several
        inputs a tuple or a dict, as they came.
    details : Bunch
        Only with ``return_details`` or ``layers``. ``score`` of shape (n_samples,) or
        (n_samples, n_classes) and ``target`` likewise, or as given if several outputs make the
        score; ``rest``, what of the score of a function is no output times gradient, else 0;
        ``head``, the name of a softmax or sigmoid at the end that was stepped over, or None;
        ``layers``, a list in execution
        order of Bunches with ``name``, ``layer``, ``rule``, the sum of ``relevance`` at the
        layer's input, and what the layer kept: ``bias``, ``epsilon``, ``padding``,
        ``initial_state``, ``dropped``, arrays like ``score``. The score is the sum of the
        relevance of X, of all that was kept, and of the rest. With a ``reference`` the score is
        counted from there, and ``reference_share`` is a part of it too.

        ``layer_relevance`` is a dict of the names in ``layers``, with arrays of shape
        (n_samples, ...) as the network has them, an axis of the targets after the first with
        ``target="all"``, in X's dtype, zeros where no relevance arrives; ``layers["name"]`` is
        the same.

    Raises
    ------
    TypeError
        If a layer or a function is not supported; it is named, with the layer that calls it. Or
        if the model holds no network, or several, as ensembles do.
    ValueError
        If ``X``, ``target`` or another parameter is malformed; or if one of ``layers`` has no
        output of its own, as a convolution that batch normalisation is folded into.
    NotFittedError
        If the model is not fitted.

    Notes
    -----
    Scores are taken before a softmax or sigmoid at the end. The relevance of an output starts at
    its value, so a map of zeros stands for an output of zero; for those of the regressors of this
    package it starts at the difference from the mean. Another ``reference`` shifts the score by a
    constant, in which no value of the input has part.

    The relevance of a function of the output starts at output times gradient. That is all of the
    function's value where f(c y) = c f(y) for c > 0, as of sums, means, maxima and differences;
    of others ``details.rest`` holds the difference. The function must not mix samples.

    References
    ----------
    Bach et al. 2015; Arras et al. 2017 for LSTMs; arXiv 2302.12317 for what the maps are worth.

    Examples
    --------
    >>> import numpy as np, torch, sklrp
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 2, bias=False)).double()
    >>> X = np.ones((4, 3))
    >>> relevance, details = sklrp.explain(net, X, rule="zero", return_details=True)
    >>> relevance.shape
    (4, 3)
    >>> bool(np.allclose(relevance.sum(axis=1), details.score))
    True
    """
    options = {
        "target": target, "rule": rule, "epsilon": epsilon, "contrast": contrast,
        "batch_size": batch_size, "n_jobs": n_jobs, "progress": progress,
        "return_details": return_details, "check": check,
    }  # fmt: skip
    check_flags(contrast=contrast)
    found = unwrap(model)
    given = {"layers": layers, "reference": reference, "out": out}
    options |= {name: value for name, value in given.items() if value is not None}
    options["target"] = match_target(target, X)
    if is_stream(X):
        return explain_piecemeal(
            functools.partial(explain, model), X, has_labels=found.classes is not None, **options
        )
    check_apart(out, "out", X, "X")  # which may be copied on its way into the network
    samples = found.enter(X)
    if contrast and is_regression(found.network):
        raise ValueError(
            f"contrast=True compares classes, and {found.name} has none: explain one output "
            "less another as a target of its own, or leave contrast out."
        )
    if found.has_explain:
        return found.network.explain(samples, **_taken_by(found.network.explain, options))
    if target is None:
        found.check_one_output(samples)
    return explain_network(found.module, samples, classes=found.classes, **options)


def _taken_by(method: Callable[..., Any], options: dict[str, Any]) -> dict[str, Any]:
    """Return the options but for defaults that a user's own ``explain`` has no parameters for."""
    parameters = inspect.signature(method).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return options
    defaults = inspect.signature(explain).parameters
    return {
        name: value
        for name, value in options.items()
        if name in parameters or value is not defaults[name].default
    }


@named
def plan(
    model: Any, rule: Any = "auto", X: Any = None, *, target: Any = None, epsilon: float = 1e-6
) -> Plan:
    """Resolve which rule acts on which layer, before anything is explained.

    Print the result to check a composite. Choices that make a map degenerate are warned of.

    Parameters
    ----------
    model : estimator, skorch net, torch.nn.Module, Pipeline, search or FrozenEstimator
        As in :func:`explain`.
    rule : str, Rule or Composite, default="auto"
        As in :func:`explain`.
    X : array-like, tuple or dict of them, or None, default=None
        A few samples, as the model takes them, needed where the network is not an
        ``nn.Sequential`` of supported layers: its ``forward`` is run on the first of them.
    target : object, default=None
        As in :func:`explain`: of a network that returns several outputs by name, it says which.
    epsilon : float, default=1e-6
        As in :func:`explain`.

    Returns
    -------
    Plan
        The steps in execution order: ``steps``, each with ``name``, ``layer``, ``kind``, ``rule``
        and ``epsilon``. It prints as a table.

    Warns
    -----
    UserWarning
        For the flat rule on a dense first layer, z-box without bounds, and z-plus on every layer
        of a network with one output.

    Examples
    --------
    >>> import torch, sklrp
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> sklrp.plan(net, "gamma")
    layer  type    rule
    0      Linear  Gamma()
    1      ReLU
    2      Linear  Gamma()
    """
    check_number("epsilon", epsilon, minimum=0.0)
    found = unwrap(model)
    module = without_wrapper(found.module)
    # An estimator lays X out for its network itself, which is a chain and needs none.
    inputs = Inputs(found.enter(X)) if X is not None and found.takes_tensors else None
    intake = Intake.of(module, inputs)
    probe = None if inputs is None else Probe(inputs, intake)
    if X is not None and not found.takes_tensors:
        samples = found.enter(X)
        as_samples(samples[:1] if is_stored(samples) else samples, integers=True)
    if target is not None and found.classes is not None:
        is_value = isinstance(target, str) or callable(target)
        target = target if is_value else as_plain_array(target, "target")
        encode_target(target, found.classes, max(1, np.size(target)))
    bounds = getattr(found.network, "input_range_", None)
    with plain_arithmetic(intake.device):
        key = split_key(target)[0] if found.classes is None else None
        return compile_plan(module, rule, float(epsilon), bounds, probe, strict=False, key=key)

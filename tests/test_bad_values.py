"""Every parameter of every public callable answers a bad value by an error that says what to do.

The callables and their parameters are found by introspection (`tests/helpers/valid_calls.py`), so
that new ones are in it by themselves. By default a few values are tried for each parameter;
``SKLRP_BAD_VALUES=all`` tries them all, in some minutes, and prints how many were.
"""

import os
import random
import re

import pytest

from tests.helpers.bad_values import VALUES, judge, tries
from tests.helpers.valid_calls import LEFT_OUT, make_calls, public_callables

WHOLE = os.environ.get("SKLRP_BAD_VALUES") == "all"
PER_PARAMETER = 1
EVERYTHING = {kind for kind, _, _ in VALUES}
NUMBERS = {"integer", "fraction", "negative", "huge", "Decimal('0.5')", "tensor of no axes"}

# What parameters may be beyond what constraints and annotations say: kinds or names of values, by
# the name of the parameter or of callable and parameter; and why.
MAY_BE = {
    # a label or the index of an output
    "target": {"none", "integer", "tensor of no axes"},
    # wrong targets are what `audit` tells of
    "sklrp.diagnostics.audit.target": EVERYTHING,
    # the remainder of a division into negative numbers of cores
    "n_jobs": {"none", "integer", "-1"},
    # an iterator of splits, as everywhere in scikit-learn
    "cv": {"none", "an iterator"},
    # values of outputs, and of inputs
    "reference": {"none", "array of no axes", "series", *NUMBERS},
    "sklrp.RelevanceTransformer.reference": {"none", "list", "array", *NUMBERS},
    "baseline": {"none", *NUMBERS},
    "low": {"none", "[1, 2, 3]", "range(3)", "array", *NUMBERS},
    "high": {"none", "[1, 2, 3]", "range(3)", "array", *NUMBERS},
    "fill_value": NUMBERS,
    # latitudes, also of a single cell
    "sklrp.geo.cosine_weights.lat": {"list", "array", *NUMBERS},
    "fill_land": {"not finite", *NUMBERS},
    "forget_bias": {"none", *NUMBERS},
    "forcing": NUMBERS,
    # True prints too, as in scikit-learn
    "verbose": {"flag", "integer"},
    # a folder
    "memory": {"none", "text", "path"},
    # none of the layers
    "layers": {"none", "[]", "()"},
    # one weight for all, as in scikit-learn
    "sample_weight": {"none", *NUMBERS},
    # of a chain of layers, which needs no samples
    "sklrp.plan.X": EVERYTHING,
    # axes counted from the last
    "axis": {"none", "integer", "-1"},
    # samples of any number of axes
    "sklrp.geo.GridVectorizer.fit.X": {"array", "list"},
    "sklrp.plotting.RelevanceDisplay.from_relevance.relevance": {"array", "list"},
    # sizes of chunks, as in dask
    "chunks": {"none", "integer", "-1", "mapping"},
    # masks by their coordinates, or of as many values
    "stipple": {"none", "field"},
    "hatch": {"none", "field"},
    "land": {"none", "field"},
    "sklrp.geo.write.fields": {"field"},
    # tables and rows have no grid
    "sklrp.plotting.RelevanceDisplay.from_relevance.grid": EVERYTHING,
    # transformers that learn nothing of y take whatever a pipeline hands them
    "sklrp.preprocessing.InputCapper.fit.y": EVERYTHING,
    "sklrp.preprocessing.InputMasker.fit.y": EVERYTHING,
    "sklrp.geo.AnomalyTransformer.fit.y": EVERYTHING,
    "sklrp.geo.GridVectorizer.fit.y": EVERYTHING,
    # names come from coordinates
    "sklrp.geo.AnomalyTransformer.get_feature_names_out.input_features": EVERYTHING,
    "sklrp.geo.GridVectorizer.get_feature_names_out.input_features": EVERYTHING,
}  # fmt: skip


def calls():
    return [
        name
        for name, _, _ in public_callables()
        if not any(re.fullmatch(pattern, name) for pattern in LEFT_OUT)
    ]


@pytest.fixture(scope="module")
def made():
    return {name: (name, call, parameters) for name, call, parameters in make_calls()}


@pytest.mark.sweep(40)
@pytest.mark.parametrize("name", calls())
def test_bad_values_are_refused_by_name(made, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where a text is the name of a file or folder
    every = list(tries(*made[name]))
    chosen = every
    if not WHOLE:
        by_parameter = {}
        for one in every:
            by_parameter.setdefault(one.parameter.name, []).append(one)
        rng = random.Random(name)
        chosen = [one for some in by_parameter.values() for one in rng.sample(some, PER_PARAMETER)]
    poor = {str(one): said for one in chosen if (said := judge(one, MAY_BE)) is not None}
    if WHOLE:
        print(f"{name}: tried {len(chosen)}, poor {len(poor)}")
    assert not poor, "\n".join(f"{one}: {said}" for one, said in poor.items())

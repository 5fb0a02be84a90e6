"""What a model is: every kind holds the same network, and what is no model is refused."""

import numpy as np
import pytest
import torch

from sklrp._models import unwrap
from sklrp.propagation import explain
from tests.helpers.models import MODELS, REFUSED, SINGLE, make


@pytest.mark.parametrize("name", [*MODELS, *SINGLE])
def test_the_network_of_every_kind_of_model(name):
    kind = make(name)
    model = unwrap(kind.model)
    entered = model.enter(kind.X)
    np.testing.assert_allclose(np.asarray(entered), kind.entered)
    outputs = kind.network(torch.from_numpy(kind.entered).double()).detach().numpy()
    np.testing.assert_allclose(model.outputs(entered), outputs, atol=1e-6)
    np.testing.assert_array_equal(model.classes_for(entered), kind.labels)
    assert model.feature_names(kind.X, 4) == kind.names
    if kind.labels is not None:
        assert model.predict(entered).tolist() == kind.labels[outputs.argmax(axis=1)].tolist()
    elif "binary" in name:
        assert model.predict(entered).tolist() == (outputs[:, 0] > 0).tolist()
    else:
        np.testing.assert_allclose(model.predict(entered), outputs[:, 0], atol=1e-6)
    relevance = explain(model.network, entered)
    expected = explain(kind.network, kind.entered.astype(np.float64))
    np.testing.assert_allclose(relevance, expected, atol=1e-5)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_model(name):
    build, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        unwrap(build())


def test_the_line_that_reaches_a_network_reaches_it():
    for name in ("voting", "bagging", "calibrated", "calibrated in a pipeline", "tuned threshold"):
        model = REFUSED[name][0]()
        with pytest.raises(TypeError, match="pass one network") as caught:
            unwrap(model)
        line = str(caught.value).rpartition("pass one network, ")[2].rstrip(".")
        assert unwrap(eval(line, {"model": model})).name == "MLPClassifier"


def test_a_wrapped_module_is_taken_out_of_its_wrapper():
    for name in ("module in parallel", "compiled module"):
        model = unwrap(make(name).model)
        assert type(model.module) is type(make(name).network)
        assert [*model.module.state_dict()] == [*make(name).network.state_dict()]


def test_a_module_keeps_its_mode():
    kind = make("module in training mode")
    unwrap(kind.model).outputs(kind.X)
    assert kind.model.training

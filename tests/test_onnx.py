"""Networks that come from ONNX files by way of onnx2torch, which is no dependency of the tests.

CI leaves this out, as the converter brings torchvision: ``pip install 'sklrp[onnx]'``, in an
environment of its own. The files are written here, operator by operator.
"""

import numpy as np
import pytest
import torch
from torch import nn

import sklrp

onnx = pytest.importorskip("onnx", reason="needs onnx: pip install 'sklrp[onnx]'")
onnx2torch = pytest.importorskip("onnx2torch", reason="needs onnx2torch: see docs/keras.md")


def operator(kind, inputs, output, **options):
    return onnx.helper.make_node(kind, inputs, [output], **options)


def convert(nodes, weights, shape, output, n_outputs):
    """Return the torch network of an ONNX graph with one input and one output."""
    of_floats = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes,
        "network",
        [onnx.helper.make_tensor_value_info("x", of_floats, ["n", *shape])],
        [onnx.helper.make_tensor_value_info(output, of_floats, ["n", n_outputs])],
        [onnx.numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()],
    )
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8
    )
    onnx.checker.check_model(model)
    return onnx2torch.convert(model).eval()


@pytest.fixture
def weights():
    rng = np.random.default_rng(0)
    shapes = {
        "w1": (4, 1, 3, 3), "b1": (4,), "scale": (4,), "shift": (4,), "mean": (4,),
        "w2": (4, 4, 3, 3), "b2": (4,), "w3": (3, 4), "b3": (3,),
    }  # fmt: skip
    return {k: rng.normal(scale=0.4, size=s) for k, s in shapes.items()} | {"var": np.full(4, 2.0)}


class ByHand(nn.Module):
    """What the graph of the test computes."""

    def __init__(self, weights):
        super().__init__()
        w = {k: torch.tensor(v, dtype=torch.float32) for k, v in weights.items()}
        self.one, self.two = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.head = nn.BatchNorm2d(4), nn.Linear(4, 3)
        self.load_state_dict(
            {
                "one.weight": w["w1"], "one.bias": w["b1"], "two.weight": w["w2"],
                "two.bias": w["b2"], "head.weight": w["w3"], "head.bias": w["b3"],
                "norm.weight": w["scale"], "norm.bias": w["shift"], "norm.running_mean": w["mean"],
                "norm.running_var": w["var"], "norm.num_batches_tracked": torch.tensor(0),
            }
        )  # fmt: skip

    def forward(self, x):
        x = torch.relu(self.norm(self.one(x)))
        x = nn.functional.max_pool2d(torch.relu(self.two(x) + x), 2)
        return torch.softmax(self.head(x.mean((2, 3))), 1)


@pytest.mark.parametrize("rule", ["auto", "epsilon", "epsilon_gamma_box"])
def test_relevance_is_that_of_a_network_written_by_hand(rule, weights):
    pads = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    nodes = [
        operator("Conv", ["x", "w1", "b1"], "c1", **pads),
        operator("BatchNormalization", ["c1", "scale", "shift", "mean", "var"], "n1"),
        operator("Relu", ["n1"], "r1"),
        operator("Conv", ["r1", "w2", "b2"], "c2", **pads),
        operator("Add", ["c2", "r1"], "sum"),
        operator("Relu", ["sum"], "r2"),
        operator("MaxPool", ["r2"], "p", kernel_shape=[2, 2], strides=[2, 2]),
        operator("GlobalAveragePool", ["p"], "mean_of_p"),
        operator("Flatten", ["mean_of_p"], "flat"),
        operator("Gemm", ["flat", "w3", "b3"], "logits", transB=1),
        operator("Softmax", ["logits"], "out", axis=1),
    ]
    network, by_hand = convert(nodes, weights, (1, 8, 8), "out", 3), ByHand(weights).eval()
    X = np.random.default_rng(1).normal(size=(5, 1, 8, 8)).astype(np.float32)
    torch.testing.assert_close(network(torch.tensor(X)), by_hand(torch.tensor(X)))
    bounds = {"bounds": (-4, 4)} if "box" in rule else {}
    found, wanted = (
        sklrp.explain(n, X, rule=sklrp.check_rule(rule, **bounds)) for n in (network, by_hand)
    )
    assert np.abs(wanted).max() > 1e-3
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


def test_upsampling_and_transposed_convolutions(weights):
    rng = np.random.default_rng(2)
    more = {
        "t": rng.normal(size=(4, 2, 2, 2)), "scales": np.array([1.0, 1.0, 2.0, 2.0]),
        "w4": rng.normal(size=(2, 512)), "b4": rng.normal(size=2),
    }  # fmt: skip
    nodes = [
        operator("Conv", ["x", "w1", "b1"], "c1", kernel_shape=[3, 3], pads=[0, 0, 1, 1],
                 strides=[2, 2]),
        operator("Elu", ["c1"], "e"),
        operator("ConvTranspose", ["e", "t"], "c2", kernel_shape=[2, 2], strides=[2, 2]),
        operator("Resize", ["c2", "", "scales"], "u", mode="nearest",
                 coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
        operator("Flatten", ["u"], "flat"),
        operator("Gemm", ["flat", "w4", "b4"], "out", transB=1),
    ]  # fmt: skip
    used = {k: v for k, v in (weights | more).items() if k in ("w1", "b1", *more)}
    network = convert(nodes, used, (1, 8, 8), "out", 2)

    class Written(nn.Module):
        def __init__(self):
            super().__init__()
            for name, value in used.items():
                self.register_buffer(name, torch.tensor(value, dtype=torch.float32))

        def forward(self, x):
            x = nn.functional.conv2d(nn.functional.pad(x, (0, 1, 0, 1)), self.w1, self.b1, 2)
            x = nn.functional.conv_transpose2d(nn.functional.elu(x), self.t, stride=2)
            x = nn.functional.interpolate(x, scale_factor=2)
            return nn.functional.linear(x.flatten(1), self.w4, self.b4)

    by_hand = Written()
    X = np.random.default_rng(1).normal(size=(5, 1, 8, 8)).astype(np.float32)
    torch.testing.assert_close(network(torch.tensor(X)), by_hand(torch.tensor(X)))
    found, wanted = (sklrp.explain(n, X, target=1, rule="epsilon") for n in (network, by_hand))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)

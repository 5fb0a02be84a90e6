"""Fourier transforms and complex numbers: against dense real matrices, and torch's gradient.

Whatever is complex between real values is one real linear map, whose matrix torch's Jacobian
gives. Relevance must be that of the map as a whole, however many complex steps it has.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sklrp
from sklrp import Composite, Epsilon
from tests.helpers.comparing import assert_close
from tests.test_functions import assert_right, build, draw


def weights(*shape):
    """Return complex constants, the same in each call."""
    size = np.prod(shape)
    parts = np.random.default_rng(size).normal(size=(2, *shape))
    return torch.complex(*map(torch.tensor, parts))


def fourier_layer(self, x):
    """As in a Fourier neural operator: few modes are kept, each has a matrix of its own."""
    modes = torch.fft.rfft(x)
    out = torch.zeros(len(x), 3, modes.shape[-1], dtype=torch.cdouble)
    out[:, :, :3] = torch.einsum("bix,iox->box", modes[:, :, :3], weights(4, 3, 3))
    return torch.fft.irfft(out, n=x.shape[-1])


def fourier_layer_of_fields(self, x):
    modes = torch.fft.rfft2(x)
    out = torch.zeros_like(modes)
    out[:, :2, :2] = modes[:, :2, :2] * weights(2, 2)
    out[:, -2:, :2] += modes[:, -2:, :2] * weights(2, 2) + 0.5j
    return torch.fft.irfft2(out, s=x.shape[-2:])


def by_parts(self, x):
    """Real weights on real and imaginary parts, as in adaptive Fourier operators."""
    modes = torch.fft.rfft(x, norm="ortho")
    real = F.linear(modes.real, self.matrix[:4, :4]) - F.linear(modes.imag, self.matrix[2:, 2:])
    imaginary = modes.real @ self.matrix[:4, :4] + 0.5
    both = F.relu(torch.stack([real, imaginary], -1))
    return torch.fft.irfft(torch.view_as_complex(both), n=6, norm="ortho")


def through_parameters(self, x):
    """Weights that are kept as pairs of real numbers."""
    weight = torch.view_as_complex(self.matrix.reshape(6, 3, 2))[:4].mT[:, :, None]
    return torch.fft.irfft(torch.fft.rfft(x)[:, None] * weight, n=6)


def written_and_shifted(self, x):
    modes = torch.fft.fftshift(torch.fft.fftn(x, dim=(1, 2)), dim=(1, 2))
    kept = torch.zeros_like(modes)
    kept[:, 1:3, 2:5] = modes[:, 1:3, 2:5]
    return torch.fft.ifftn(torch.fft.ifftshift(kept, dim=(1, 2)), dim=(1, 2)).real


LINEAR = {
    "rfft and back": lambda self, x: torch.fft.irfft(torch.fft.rfft(x), n=6),
    "odd lengths": lambda self, x: torch.fft.irfft(torch.fft.rfft(x[..., :5]), n=5),
    "other lengths": lambda self, x: torch.fft.irfft(torch.fft.rfft(x, n=8, dim=1), n=10, dim=1),
    "real part": lambda self, x: torch.fft.fft(x).real,
    "imaginary part": lambda self, x: torch.fft.fft(x, dim=1).imag,
    "both parts": lambda self, x: torch.view_as_real(torch.fft.rfft(x)),
    "inverse first": lambda self, x: torch.fft.ifft(x).imag,
    "hfft": lambda self, x: torch.fft.hfft(x[..., :4].to(torch.cdouble) * 1j),
    "ihfft": lambda self, x: torch.fft.ihfft(x).real,
    "two axes": lambda self, x: torch.fft.irfft2(torch.fft.rfft2(x), s=(4, 6)),
    "all axes": lambda self, x: torch.fft.irfftn(torch.fft.rfftn(x, dim=(1, 2)), dim=(1, 2)),
    "weights": lambda self, x: torch.fft.irfft(torch.fft.rfft(x) * weights(4), n=6),
    "weights first": lambda self, x: torch.fft.irfft(weights(4) * torch.fft.rfft(x), n=6),
    "divided": lambda self, x: (torch.fft.fft(x) / weights(6)).real,
    "matrix": lambda self, x: (torch.fft.rfft(x) @ weights(4, 3)).imag,
    "linear": lambda self, x: F.linear(torch.fft.rfft(x), weights(3, 4)).real,
    "bias": lambda self, x: (torch.fft.rfft(x) + weights(4) - 2j).real,
    "conjugate": lambda self, x: (torch.fft.rfft(x).conj() * (1 + 2j)).imag,
    "conjugate transpose": lambda self, x: torch.fft.rfft(x).mH.imag,
    "adjoint": lambda self, x: (torch.fft.rfft(x).adjoint() * weights(4)).imag,
    "minus": lambda self, x: (-torch.fft.rfft(x)).real - torch.fft.rfft(x).imag,
    "sum of two": lambda self, x: (torch.fft.fft(x) + torch.fft.fft(x.flip(1)) * 1j).real,
    "mean": lambda self, x: torch.fft.rfft(x).mean(1).real,
    "joined": lambda self, x: torch.cat([torch.fft.rfft(x), 2j * torch.fft.rfft(x)], 1).imag,
    "padded": lambda self, x: torch.fft.irfft(F.pad(torch.fft.rfft(x), (0, 2)), n=10),
    "permuted": lambda self, x: torch.fft.rfft(x).transpose(1, 2)[:, 1:].flatten(1).real,
    "rolled": lambda self, x: torch.fft.rfft(x).roll(1, 2).real,
    "made of parts": lambda self, x: (torch.complex(x, x.flip(2)) * weights(6)).real,
    "short time": lambda self, x: (
        torch.stft(x.flatten(1), 8, window=torch.hann_window(8).double(), return_complex=True).real
    ),
    "fourier layer": fourier_layer,
    "fourier layer of fields": fourier_layer_of_fields,
    "through parameters": through_parameters,
    "written and shifted": written_and_shifted,
}
# Piecewise linear, and linear in the size of what enters: gradient times input too.
HOMOGENEOUS = {
    "amplitudes": lambda self, x: torch.fft.rfft(x).abs(),
    "amplitudes of fields": lambda self, x: torch.abs(torch.fft.rfft2(x)),
    "by parts": by_parts,
}


@pytest.mark.sweep(12)
@pytest.mark.parametrize("name", [*LINEAR, *HOMOGENEOUS])
@pytest.mark.parametrize("n_samples", [1, 3])
def test_complex_steps_are_gradient_times_input(name, n_samples):
    assert_right(build({**LINEAR, **HOMOGENEOUS}[name]), draw(n_samples))


class Direct(nn.Module):
    """A function of the input itself, and a linear layer on what comes of it."""

    def __init__(self, function):
        super().__init__()
        inner = build(function)
        self.run = lambda x: function(inner, x).reshape(len(x), -1)
        self.last = nn.Linear(self.run(torch.zeros(1, 4, 6).double()).shape[1], 2).double()

    def forward(self, x):
        return self.last(self.run(x))


def by_dense_matrix(model, x, epsilon):
    """Return the relevance of one sample by contribution to the whole map."""

    def stable(z):
        return z + epsilon * torch.where(z < 0, -1.0, 1.0).double()

    z = model.run(x[None])[0]
    matrix = torch.autograd.functional.jacobian(lambda v: model.run(v[None])[0], x)
    score = model.last(z)[1]
    at_z = z * model.last.weight[1] * score / stable(score)
    ratio = torch.where(z == 0, 0.0, at_z / stable(z))
    return (x * (ratio @ matrix.reshape(len(z), -1)).reshape(x.shape)).detach()


@pytest.mark.sweep(10)
@pytest.mark.parametrize("name", [name for name in LINEAR if name != "minus"])  # it is two maps
@pytest.mark.parametrize("epsilon", [1e-6, 0.3])
def test_epsilon_acts_where_values_become_real_again(name, epsilon):
    """One map has one stabiliser, however many complex steps it is written in."""
    torch.manual_seed(0)
    model = Direct(LINEAR[name])
    X = np.random.default_rng(0).normal(size=(3, 4, 6))
    rule = Composite([("all", Epsilon(epsilon), "all")])
    relevance, details = sklrp.explain(
        model, X, target=1, rule=rule, epsilon=epsilon, return_details=True
    )
    assert_close(
        relevance, torch.stack([by_dense_matrix(model, x, epsilon) for x in torch.tensor(X)])
    )
    kept = sum(layer[c] for layer in details.layers for c in ("bias", "epsilon", "dropped"))
    assert_close(relevance.sum((1, 2)) + kept, details.score)


def test_frequencies_that_are_zero_lose_nothing():
    """Of a constant series all frequencies but one are 0, and what they would pass cancels."""
    torch.manual_seed(0)
    model = Direct(lambda self, x: torch.fft.irfft(torch.fft.rfft(x) * weights(4), n=6))
    X = np.ones((2, 4, 6)) * np.array([1.0, 2.0])[:, None, None]
    relevance = sklrp.explain(model, X, target=1, rule="zero", epsilon=0.0)
    x = torch.tensor(X, requires_grad=True)
    (gradient,) = torch.autograd.grad(model(x)[:, 1].sum(), x)
    assert np.ptp(relevance[0], axis=1).max() > 0.01
    assert_close(relevance, (x * gradient).detach())


def test_products_of_spectra_share_half_each():
    """The power spectrum as a product is that of the amplitudes, and of their squares."""
    torch.manual_seed(0)

    def product(self, x):
        modes = torch.fft.rfft(x)
        return (modes * modes.conj()).real

    ways = (product, lambda self, x: torch.fft.rfft(x).abs() ** 2)
    models = [Direct(way) for way in ways]
    models[1].last.load_state_dict(models[0].last.state_dict())
    X = np.random.default_rng(0).normal(size=(3, 4, 6))
    found = [sklrp.explain(m, X, target=1, rule="zero", epsilon=0.0) for m in models]
    assert_close(*found)


def test_gates_weigh_spectra_and_take_nothing():
    """As in a product of real numbers; a gate alone is scaled as a signal is."""
    torch.manual_seed(0)
    shares = Direct(lambda self, x: (torch.fft.rfft(x) * x[..., :4].sigmoid()).real)
    X = np.random.default_rng(0).normal(size=(3, 4, 6))
    relevance = sklrp.explain(shares, X, target=1, rule="zero", epsilon=0.0)
    x = torch.tensor(X, requires_grad=True)
    gate = x[..., :4].sigmoid().detach()
    score = shares.last((torch.fft.rfft(x) * gate).real.reshape(3, -1))[:, 1]
    (gradient,) = torch.autograd.grad(score.sum(), x)
    assert_close(relevance, (x * gradient).detach())
    alone = Direct(lambda self, x: (x.sigmoid() * (1 + 2j)).real)
    relevance = sklrp.explain(alone, X, target=1, rule="zero", epsilon=0.0)
    at_gate = torch.tensor(X).sigmoid() * alone.last.weight[1].detach().reshape(4, 6)
    assert_close(relevance, at_gate)


def test_weights_of_another_precision():
    """`module.double()` leaves complex weights in single precision."""

    class Fourier(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, dtype=torch.cfloat))
            self.fc = nn.Linear(6, 2)

        def forward(self, x):
            return self.fc(torch.fft.irfft(torch.fft.rfft(x) * self.weight, n=6))

    torch.manual_seed(0)
    X = np.random.default_rng(0).normal(size=(3, 6))
    for model, dtype in ((Fourier().double(), "float64"), (Fourier(), "float32")):
        relevance, details = sklrp.explain(
            model, X.astype(dtype), target=0, rule="zero", epsilon=0.0, return_details=True
        )
        x = torch.tensor(X.astype(dtype), requires_grad=True)
        score = model(x)[:, 0]
        (gradient,) = torch.autograd.grad(score.sum(), x)
        assert_close(relevance, (x * gradient).detach(), 1e-5)
        assert_close(details.score, score.detach(), 1e-5)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda self, x: torch.tanh(torch.fft.rfft(x)).real, "'tanh'.*complex numbers.*abs, real"),
        (lambda self, x: torch.fft.rfft(x).angle(), "'angle'.*complex"),
        (lambda self, x: (torch.fft.rfft(x) ** 2).real, "'pow'.*complex"),
        (lambda self, x: torch.fft.fft(x, dim=0).real, "'fft_fft'.*mixes samples"),
        (lambda self, x: F.relu(self.conv(x).to(torch.cdouble)).real, "complex"),
        (lambda self, x: (torch.fft.fft(x) * torch.fft.fft(x)).real, "'mul'.*product='prop'"),
    ],
)
def test_what_is_refused(function, message):
    model = build(lambda self, x: x)
    model.function, model.last = lambda self, x: function(self, x), nn.LazyLinear(2)
    model.last = nn.Linear(function_size(function, model), 2).double()
    product = "prop" if "prop" in message else "all"
    rule = Composite([("all", Epsilon(), "all")], product=product)
    with pytest.raises(TypeError, match=f"(?s){message}"):
        sklrp.explain(model, draw(3), target=0, rule=rule)


def test_complex_outputs_are_refused():
    class Spectrum(nn.Module):
        def forward(self, x):
            return torch.fft.rfft(x)

    with pytest.raises(TypeError, match=r"returns complex numbers.*\.abs\(\)"):
        sklrp.explain(Spectrum(), np.ones((3, 4)), target=0)


def function_size(function, model):
    try:
        return function(model, torch.zeros(2, 4, 6).double()).reshape(2, -1).shape[1]
    except RuntimeError:
        return 1

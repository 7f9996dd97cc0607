"""The digits model: its rules, its optimiser, and one loss curve on every backend."""

import json
from functools import cache

import numpy as np
import pytest
from helpers import finite_difference, run_python

import backdraw
from backdraw.errors import BackendError
from backdraw.study import digits, latents, layers
from backdraw.study.adam import Adam
from backdraw.study.latents import LATENTS, trainable

OTHERS = [pytest.param(name, marks=pytest.mark.needs(name)) for name in ("torch", "jax", "cupy")]


@cache
def losses(backend, estimator, epochs=7, latent="categorical"):
    """Return the training losses of all steps, 15 an epoch, in float64."""
    config = digits.Config(backend=backend, estimator=estimator, epochs=epochs, dtype="float64", latent=latent)
    return np.concatenate([e.losses for e in digits.train(config, *digits.load()).epochs])


@pytest.mark.parametrize("backend", OTHERS)
@pytest.mark.parametrize("estimator", ["gumbel_softmax", "straight_through"])
def test_one_key_gives_one_loss_curve(backend, estimator):
    ours = losses(backend, estimator)
    assert ours.shape == (105,)
    assert ours[-1] < 0.7 * ours[0]
    np.testing.assert_allclose(ours, losses("numpy", estimator), rtol=1e-6)


@pytest.mark.parametrize("backend", OTHERS)
@pytest.mark.parametrize(("latent", "estimator"), [("normal", "reparameterize"), ("bernoulli", "gumbel_softmax")])
def test_other_latents_give_one_loss_curve_too(backend, latent, estimator):
    ours = losses(backend, estimator, epochs=2, latent=latent)
    assert ours[-1] < 0.8 * ours[0]
    np.testing.assert_allclose(ours, losses("numpy", estimator, epochs=2, latent=latent), rtol=1e-6)


@pytest.mark.needs("jax")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_jax_needs_no_x64(dtype):
    """JAX as users start it: the other tests have turned its 64-bit types on."""
    program = f"""
import numpy as np
import backdraw
from backdraw.study import digits
config = digits.Config(backend="jax", estimator="straight_through", epochs=1, dtype="{dtype}")
images, held_out = digits.load()
trained = digits.train(config, images, held_out)
for decoded in (digits.reconstruct(trained, held_out[:2], backdraw.key(0)), digits.generate(trained, 2, backdraw.key(0))):
    assert (decoded.astype("float32") == decoded).all() == ("{dtype}" == "float32")  # and no warning of a lost dtype
print(trained.epochs[0].losses.tolist())
"""
    ours = json.loads(run_python(program))
    np.testing.assert_allclose(ours, losses("numpy", "straight_through", epochs=1), rtol=1e-6 if dtype == "float64" else 1e-3)


@pytest.mark.needs("numpy")
@pytest.mark.parametrize(("latent", "estimator"), [(l, e) for l in LATENTS for e in trainable(l)])
def test_every_estimator_trains(latent, estimator):
    config = digits.Config(latent=latent, estimator=estimator, epochs=2)
    first, second = digits.train(config, *digits.load()).epochs
    assert max(first.held_out, second.held_out) < 36
    if estimator != "select":  # which never sees a draw, by which the held-out ELBO is measured
        assert second.held_out < first.held_out
    assert second.losses.mean() < first.losses.mean()


@pytest.mark.needs("torch")
def test_adam_is_torchs():
    import torch

    rng = np.random.default_rng(0)
    start = [rng.normal(size=shape) for shape in ((3, 4), (4,))]
    theirs = [torch.nn.Parameter(torch.tensor(p)) for p in start]
    optimizer = torch.optim.Adam(theirs, lr=0.01, betas=(0.8, 0.95), eps=1e-3)
    adam, ours = Adam(0.01, (0.8, 0.95), 1e-3), tuple(start)
    state = adam.init(ours)
    for _ in range(20):
        gradients = tuple(rng.normal(size=p.shape) for p in start)
        for p, g in zip(theirs, gradients, strict=True):
            p.grad = torch.tensor(g)
            g.flags.writeable = False
        optimizer.step()
        ours, state = adam.update(ours, gradients, state)
    for p, q in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(p, q.detach().numpy(), rtol=1e-12)


RNG = np.random.default_rng(1)
CASES = {
    "affine": (layers.affine, (RNG.normal(size=(5, 3)), RNG.normal(size=(3, 4)), RNG.normal(size=4)), {}),
    "relu": (layers.relu, (RNG.normal(size=(5, 3)),), {}),
    "reshape": (layers.reshape, (RNG.normal(size=(5, 6)),), {"shape": (-1, 2, 3)}),
    "negative_elbo": (
        lambda pixels, kl: digits.negative_elbo(pixels, kl, IMAGES),
        (3 * RNG.normal(size=(5, 7)), 3 * RNG.normal(size=(5, 2))),
        {},
    ),
    "column": (latents.column, (RNG.normal(size=(5, 2, 3)),), {"index": 1}),
    "exp": (latents.exp, (RNG.normal(size=(5, 2)),), {}),
}  # fmt: skip
IMAGES = RNG.uniform(size=(5, 7))


@pytest.mark.parametrize("name", CASES)
def test_gradient_rules_against_finite_differences(name):
    f, arrays, static = CASES[name]
    out, pullback = backdraw.vjp(lambda *xs: f(*xs, **static), *arrays)
    cotangent = RNG.normal(size=np.shape(out))
    for i, gradient in enumerate(pullback(np.asarray(cotangent))):
        assert gradient.shape == arrays[i].shape
        expected = finite_difference(lambda x: f(*arrays[:i], x, *arrays[i + 1 :], **static), arrays[i], cotangent)  # noqa: B023
        np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-8)


def test_negative_elbo_is_what_it_says():
    pixels, codes = 3 * RNG.normal(size=(5, 7)), 3 * RNG.normal(size=(5, 2, 3))
    p = 1 / (1 + np.exp(-pixels))
    likelihood = IMAGES * np.log(p) + (1 - IMAGES) * np.log(1 - p)
    q = np.exp(codes) / np.exp(codes).sum(-1, keepdims=True)
    expected = (np.sum(q * np.log(q / (1 / 3))) - likelihood.sum()) / 5
    kl = LATENTS["categorical"].kl(codes)
    np.testing.assert_allclose(digits.negative_elbo(pixels, kl, IMAGES), expected, rtol=1e-12)


def test_divergences_from_the_priors():
    codes = RNG.normal(size=(5, 2, 3))
    p = 1 / (1 + np.exp(-codes))
    bits = p * np.log(2 * p) + (1 - p) * np.log(2 * (1 - p))
    np.testing.assert_allclose(LATENTS["bernoulli"].kl(codes), bits, rtol=1e-12, atol=1e-15)
    mean, scale = codes[..., 0], np.exp(codes[..., 1])
    np.testing.assert_allclose(LATENTS["normal"].kl(codes), (mean**2 + scale**2 - 1) / 2 - np.log(scale), rtol=1e-12)


def test_negative_elbo_of_large_logits_is_finite():
    pixels, codes = np.full((1, 7), 1e4), np.zeros((1, 2, 3)) + np.array([0.0, 1e4, -1e4])

    def loss(pixels, codes):
        return digits.negative_elbo(pixels, LATENTS["categorical"].kl(codes), np.ones((1, 7)))

    value, gradients = backdraw.value_and_grad(loss)(pixels, codes)
    np.testing.assert_allclose(value, 2 * np.log(3))
    assert all(np.isfinite(g).all() for g in gradients)


def test_an_estimator_finds_its_latents():
    found = {e: digits.Config(estimator=e).latent for e in ("", "reinmax", "hard_concrete", "reparameterize")}
    assert list(found.values()) == ["categorical", "categorical", "bernoulli", "normal"]


def test_split_of_the_data():
    from sklearn.datasets import load_digits

    images, held_out = digits.load()
    assert images.shape == (1500, 64)
    assert held_out.shape == (297, 64)
    together = np.concatenate([images, held_out])
    assert (together.min(), together.max()) == (0, 1)
    np.testing.assert_array_equal(*(np.unique(x, axis=0) for x in (together, load_digits().data / 16)))
    np.testing.assert_array_equal(digits.load()[1], held_out)


def test_pictures_are_of_probabilities():
    images, held_out = digits.load()
    trained = digits.train(digits.Config(epochs=1), images, held_out)
    decoded = digits.reconstruct(trained, held_out[:6], backdraw.key(0))
    made = digits.generate(trained, 9, backdraw.key(0))
    for pictures, n in ((decoded, 6), (made, 9)):
        assert pictures.shape == (n, 64)
        assert ((pictures > 0) & (pictures < 1)).all()


def test_initial_parameters_are_those_of_torchs_linear_layers():
    weights = digits.initial(digits.Config())
    assert [w.shape for w in weights] == [(64, 256), (256,), (256, 200), (200,), (200, 256), (256,), (256, 64), (64,)]
    for i, inputs in enumerate((64, 64, 256, 256, 200, 200, 256, 256)):
        assert 0.9 < np.abs(weights[i]).max() * inputs**0.5 <= 1


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"estimator": "draw"}, ValueError, "estimator: expected one of blackbox, .*, got 'draw'"),
        ({"epochs": 0}, ValueError, "epochs: expected 1 or more, got 0"),
        ({"epochs": 1.0}, TypeError, "epochs: expected an int, got float"),
        ({"width": True}, TypeError, "width: expected an int, got bool"),
        ({"seed": -1}, ValueError, "seed: expected 0 or more, got -1"),
        ({"seed": 2**64}, ValueError, "seed: expected an integer that fits in 64 bits"),
        ({"batch": 1501}, ValueError, "batch: expected at most 1500"),
        ({"learning_rate": -1.0}, ValueError, "learning_rate: expected a positive finite number, got -1"),
        ({"temperature": (0.5, 0.0)}, ValueError, "temperature: expected a positive finite number, got 0"),
        ({"temperature": (0.5, "x")}, TypeError, "temperature: expected a positive number, got str"),
        ({"temperature": 0.5}, TypeError, "temperature: expected two numbers, the first and the last, got 0.5"),
        ({"dtype": "float16"}, ValueError, "dtype: expected float32 or float64, got 'float16'"),
    ],
)
def test_bad_settings(options, error, message):
    with pytest.raises(error, match=message):
        digits.Config(**options)


def test_unknown_backend():
    with pytest.raises(BackendError, match="backend: expected one of"):
        digits.train(digits.Config(backend="pytorch"), *digits.load())

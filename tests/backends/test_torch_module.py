"""Draw, the module: its steps, its two modes, what it prints and saves, and torch's tools that run a forward pass twice."""

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest

import backdraw
from backdraw import schedules
from backdraw.estimators import ESTIMATORS

torch: Any = pytest.importorskip("torch")
from torch.utils.checkpoint import checkpoint  # noqa: E402

from backdraw_backends.torch_module import Draw  # noqa: E402

pytestmark = [
    pytest.mark.needs("torch"),
    pytest.mark.filterwarnings(r"ignore:[\s\S]*should not be instantiated:DeprecationWarning"),  # in torch.compile
]

KEY = backdraw.key(4)
LOGITS = torch.tensor(np.random.default_rng(1).normal(size=(5, 4)))
STEEP = schedules.linear(2.0, 0.5, 4)
DRAWS = sorted(name for name, e in ESTIMATORS.items() if e.kind == "draw" and e.domain != "continuous")


def leaf() -> Any:
    return LOGITS.clone().requires_grad_()


def test_training_draws_at_the_temperature_of_the_step() -> None:
    draw = Draw("gumbel_softmax", temperature=STEEP)
    for step in range(6):
        assert int(draw.step) == step
        expected = backdraw.gumbel_softmax(LOGITS, temperature=max(0.5, 2.0 - 1.5 * step / 4), rng=KEY)
        torch.testing.assert_close(draw(LOGITS, rng=KEY), expected, rtol=1e-6, atol=0.0)


def test_evaluation_selects_without_noise_and_stands_still() -> None:
    draw = Draw("gumbel_softmax", temperature=STEEP)
    draw(LOGITS)
    draw.eval()
    x, y = leaf(), leaf()
    out, expected = draw(x), backdraw.select(y, temperature=2.0 - 1.5 / 4)
    assert torch.equal(out, torch.nn.functional.one_hot(LOGITS.argmax(-1), 4))
    assert int(draw.step) == 1
    out.backward(LOGITS.cos())
    expected.backward(LOGITS.cos())
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-6, atol=0.0)
    draw.train()(LOGITS)
    assert int(draw.step) == 2


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("as_function", [False, True])
def test_every_draw_of_the_registry(name: str, as_function: bool) -> None:
    entry = ESTIMATORS[name]
    draw = Draw(entry.function, **entry.options) if as_function else Draw(name)
    rng = {"rng": KEY} if "rng" in entry.function.__kwdefaults__ else {}
    assert torch.equal(draw(LOGITS, **rng), entry(LOGITS, **rng))
    assert int(draw.step) == 1
    assert repr(draw).startswith(f"Draw({entry.function.__name__}, ")
    if name != "hard_concrete":
        assert torch.equal(draw.eval()(LOGITS), backdraw.select(entry.array(LOGITS)))
    if rng:
        p = backdraw.Bernoulli(LOGITS)
        assert torch.equal(draw.train()(p, rng=KEY) if "relax" not in entry.needs else draw(p), draw(p, rng=KEY))


@pytest.mark.parametrize("limits", [None, (-0.5, 1.25)])
def test_gates_are_evaluated_as_their_authors_do(limits: Any) -> None:
    draw = Draw("hard_concrete", **({} if limits is None else {"limits": limits})).eval()
    low, high = limits or (-0.1, 1.1)
    logits = torch.tensor([-4.0, -0.5, 0.3, 4.0], requires_grad=True)
    gates = draw(backdraw.Bernoulli(logits))
    expected = (torch.sigmoid(logits) * (high - low) + low).clamp(0.0, 1.0)
    torch.testing.assert_close(gates, expected)
    assert 0 < gates[1] < gates[2] < 1
    (found,), (grad,) = (torch.autograd.grad(x.sum(), logits, retain_graph=True) for x in (gates, expected))
    torch.testing.assert_close(found, grad)
    torch.testing.assert_close(draw(logits), gates)


def test_evaluation_keeps_the_regularizer() -> None:
    for options in ({}, {"regularizer": "euclidean"}):
        draw = Draw("straight_through", temperature=0.7, **options).eval()
        logits = torch.tensor([0.0, 0.1, 3.0], requires_grad=True)
        c = torch.tensor([1.0, 2.0, 4.0])
        grads = [
            torch.autograd.grad(x, logits, c)[0] for x in (draw(logits), backdraw.select(logits, temperature=0.7, **options))
        ]
        torch.testing.assert_close(*grads)
    assert not grads[0].any()


def test_distributions() -> None:
    draw = Draw("straight_through", temperature=0.7)
    mask = torch.tensor([True, False, True, True])
    for p in (backdraw.Bernoulli(LOGITS), backdraw.Categorical(LOGITS, axis=0), backdraw.Categorical(LOGITS, where=mask)):
        assert torch.equal(draw.train()(p, rng=KEY), backdraw.straight_through(p, temperature=0.7, rng=KEY))
        assert torch.equal(draw.eval()(p), backdraw.select(p))
    rows = Draw("gumbel_softmax", axis=0)
    torch.testing.assert_close(rows(LOGITS).sum(0), torch.ones(4, dtype=torch.float64))
    assert torch.equal(rows.eval()(LOGITS).sum(0), torch.ones(4, dtype=torch.float64))


def test_what_it_prints() -> None:
    draw = Draw("gumbel_softmax_hard", temperature=schedules.cosine(1.0, 0.25, 100))
    draw(LOGITS)
    assert repr(draw) == "Draw(gumbel_softmax, temperature=cosine(start=1.0, stop=0.25, steps=100), hard=True, step=1)"
    assert repr(Draw("straight_through")) == "Draw(straight_through, temperature=1.0, step=0)"
    assert repr(Draw("intermediate_loss", step_size=0.2)) == "Draw(intermediate_loss, step_size=0.2, step=0)"
    learned = Draw("select", temperature=torch.nn.Parameter(torch.tensor(0.3)))
    assert repr(learned) == "Draw(select, temperature=Parameter(0.3), step=0)"
    assert repr(learned.to("meta")) == "Draw(select, temperature=meta, step=meta)"


def test_state_and_copies() -> None:
    draw = Draw("gumbel_softmax", temperature=STEEP)
    for _ in range(3):
        draw(LOGITS)
    assert draw.state_dict() == {"step": torch.tensor(3)}
    fresh = Draw("gumbel_softmax", temperature=STEEP)
    fresh.load_state_dict(draw.state_dict())
    for other in (fresh, copy.deepcopy(draw), pickle.loads(pickle.dumps(draw)), draw.double()):
        assert other.step.dtype == torch.int64
        assert repr(other) == repr(draw)
        torch.testing.assert_close(other(LOGITS, rng=KEY), backdraw.gumbel_softmax(LOGITS, temperature=0.875, rng=KEY))


def test_learned_and_user_made_temperatures() -> None:
    draw = Draw("gumbel_softmax", temperature=torch.nn.Parameter(torch.tensor(0.5)))
    draw(LOGITS)[:, 0].sum().backward()
    assert [name for name, _ in draw.named_parameters()] == ["temperature"]
    assert draw.temperature.grad.abs() > 0
    held = Draw("gumbel_softmax", temperature=torch.tensor(0.5))
    assert set(held.state_dict()) == {"temperature", "step"}
    own = Draw("gumbel_softmax", temperature=lambda step: max(0.5, math.exp(-0.1 * step)))
    for t in (1.0, math.exp(-0.1)):
        torch.testing.assert_close(own(LOGITS, rng=KEY), backdraw.gumbel_softmax(LOGITS, temperature=t, rng=KEY))


def test_a_held_temperature_is_positive() -> None:
    with pytest.raises(ValueError, match=r"temperature: expected a positive finite number, got -1\.0"):
        Draw("gumbel_softmax", temperature=torch.tensor(-1.0))


# ----------------------------------------------------------------------------------------------------- torch's tools
@pytest.mark.parametrize("name", ["gumbel_softmax", "gumbel_softmax_hard", "straight_through", "intermediate_loss", "select"])
def test_compile(name: str) -> None:
    torch._dynamo.reset()
    options = {} if name == "intermediate_loss" else {"temperature": STEEP}
    rng = {} if name == "select" else {"rng": KEY}
    compiled, plain = Draw(name, **options), Draw(name, **options)
    f = torch.compile(lambda x: compiled(x, **rng), fullgraph=True, backend="aot_eager")
    for _ in range(3):  # not compiled anew at each step
        x, y = leaf(), leaf()
        out, expected = f(x), plain(y, **rng)
        torch.testing.assert_close(out, expected)
        out.backward(LOGITS.cos())
        expected.backward(LOGITS.cos())
        torch.testing.assert_close(x.grad, y.grad)
    assert compiled.state_dict() == {"step": torch.tensor(3)}
    compiled.eval()
    f = torch.compile(compiled, fullgraph=True, backend="aot_eager")
    assert torch.equal(f(LOGITS), backdraw.select(LOGITS))


def test_compiles_where_there_is_no_mean() -> None:
    layer, x = Draw("gumbel_max").eval(), torch.randn(2, 3)
    f = torch.compile(lambda x: layer(backdraw.PlackettLuce(x)), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(f(x), layer(backdraw.PlackettLuce(x)))


def test_compiles_once() -> None:
    torch._dynamo.reset()
    draw, count = Draw("gumbel_softmax", temperature=STEEP), torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(draw, fullgraph=True, backend=count)
    for _ in range(5):
        compiled(LOGITS)
    assert int(draw.step) == 5
    assert count.frame_count == 1


@pytest.mark.filterwarnings(r"ignore:[\s\S]*torch\.jit\.script:DeprecationWarning")  # torch's own
def test_inductor() -> None:
    torch._dynamo.reset()
    draw, plain = Draw("gumbel_softmax", temperature=STEEP), Draw("gumbel_softmax", temperature=STEEP)
    compiled = torch.compile(draw, fullgraph=True, backend="inductor")
    for _ in range(2):
        x, y = leaf(), leaf()
        compiled(x, rng=KEY).backward(LOGITS.cos())
        plain(y, rng=KEY).backward(LOGITS.cos())
        torch.testing.assert_close(x.grad, y.grad)


def test_checkpointing_under_compile() -> None:
    torch._dynamo.reset()
    draw, plain = Draw("gumbel_softmax", temperature=STEEP), Draw("gumbel_softmax", temperature=STEEP)
    f = torch.compile(lambda x: checkpoint(lambda x: draw(x, rng=KEY) ** 2, x, use_reentrant=False), backend="aot_eager")
    for _ in range(2):
        x, y = leaf(), leaf()
        f(x).backward(LOGITS.cos())
        (plain(y, rng=KEY) ** 2).backward(LOGITS.cos())
        torch.testing.assert_close(x.grad, y.grad)
    assert int(draw.step) == 2


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing(reentrant: bool) -> None:
    # The repeated pass takes the same noise, from torch's generator, and the same temperature, and is not counted.
    draw, plain = Draw("gumbel_softmax", temperature=STEEP), Draw("gumbel_softmax", temperature=STEEP)
    for _ in range(3):
        x, y = leaf(), leaf()
        torch.manual_seed(0)
        out = checkpoint(lambda x: draw(x) ** 2, x, use_reentrant=reentrant)
        torch.manual_seed(0)
        expected = plain(y) ** 2
        torch.testing.assert_close(out, expected)
        out.backward(LOGITS.cos())
        expected.backward(LOGITS.cos())
        torch.testing.assert_close(x.grad, y.grad)
    assert int(draw.step) == int(plain.step) == 3


def test_functional_call() -> None:
    draw, state = Draw("gumbel_softmax", temperature=STEEP), {"step": torch.tensor(2)}
    out = torch.func.functional_call(draw, state, (LOGITS,), {"rng": KEY})
    torch.testing.assert_close(out, backdraw.gumbel_softmax(LOGITS, temperature=1.25, rng=KEY))
    assert (int(state["step"]), int(draw.step)) == (3, 0)


# ---------------------------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (("gumbel",), {}, ValueError, "estimator: expected one of .*gumbel_softmax.*, got 'gumbel'"),
        ((3,), {}, TypeError, "estimator: expected a name of the registry or a function, got int"),
        (("straight_through",), {"hard": True}, TypeError, "hard: straight_through takes no such option, only temperature"),
        (("intermediate_loss",), {"temperature": 1.0}, TypeError, "temperature: intermediate_loss takes no such option"),
        (("gumbel_softmax",), {"rng": 0}, TypeError, "rng: gumbel_softmax takes no such option"),
        (("gumbel_softmax",), {"logits": 0}, TypeError, "logits: gumbel_softmax takes no such option"),
        (("gumbel_softmax",), {"temperature": 0}, ValueError, "temperature: expected a positive finite number, got 0.0"),
        (("gumbel_softmax",), {"temperature": "warm"}, TypeError, "temperature: expected a number or a scalar array, got str"),
        (("gumbel_softmax",), {"temperature": torch.ones(2)}, ValueError, r"temperature: expected a scalar array of shape"),
        (("gumbel_softmax",), {"where": torch.ones(4) > 0}, TypeError, "where: expected a plain value, got a tensor"),
    ],
)
def test_bad_arguments(arguments: Any, options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Draw(*arguments, **options)


def test_bad_calls() -> None:
    with pytest.raises(TypeError, match="rng: select draws nothing and takes none, got int"):
        Draw("select")(LOGITS, rng=0)
    with pytest.raises(TypeError, match=r"dist: straight_through needs mean\(\) of Concrete"):
        Draw("straight_through")(backdraw.Concrete(LOGITS, 0.5))
    with pytest.raises(TypeError, match=r"dist: draw in evaluation mode needs argmax\(\) of Concrete"):
        Draw("draw").eval()(backdraw.Concrete(LOGITS, 0.5))
    draw = Draw("gumbel_softmax", temperature=lambda step: -1.0)
    with pytest.raises(ValueError, match=r"temperature: expected a positive finite number, got -1\.0"):
        draw(LOGITS)
    assert int(draw.step) == 0  # what failed does not count

"""What tuning a control variate is worth, on the toy E[(b - t)^2] of one bit b, t = 0.49.

The bit's logit follows the exact gradient, the same path for all, and the picture ``tune_rebar.png`` shows the variance of
five unbiased one-draw gradients along it (rloo: two draws). f at relaxed bits tells little about f at 0 and 1 here, so that
rebar as it comes is worse than reinforce; `backdraw.variance_loss` finds that out, turns its scale down and its temperature
up, and rebar ends where reinforce is. relax is free to learn a control variate of its own, here a parabola, by the same
loss: its variance passes below that of rloo, which needs no tuning but a second sample, and all but vanishes.

    python examples/tune_rebar.py [FOLDER] [--quick]
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from threadpoolctl import threadpool_limits

import backdraw
from backdraw.study.pictures import save

T = 0.49
COPIES = 2000  # of the bit, whose gradients' spread is measured
STYLES = {
    "reinforce": ("#000000", "-"),
    "rloo, 2 samples": ("#009E73", "-."),
    "rebar, as it comes": ("#D55E00", "--"),
    "rebar, tuned": ("#D55E00", "-"),
    "relax, tuned": ("#0072B2", "-"),
}


def f(b: torch.Tensor) -> torch.Tensor:
    """The toy."""
    return (b - T) ** 2


def variance(estimator: Callable[..., Any], logit: torch.Tensor, key: Any, **options: Any) -> float:
    """Return the variance of the estimator's gradient in the logit."""
    logits = logit.repeat(COPIES).requires_grad_()
    value = estimator(f, backdraw.Bernoulli(logits), rng=key, **options)
    return float(torch.autograd.grad(value.sum(), logits)[0].var())


def run(steps: int) -> dict[str, list[float]]:
    """Return the variances along the path."""
    log_temperature = torch.tensor(0.5).log().requires_grad_()
    scale = torch.tensor(1.0, requires_grad=True)
    parabola = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.Adam([log_temperature, scale, parabola], lr=0.02)
    logit, variances = torch.tensor(0.0), {name: [] for name in STYLES}

    def surrogate(x: torch.Tensor) -> torch.Tensor:
        return parabola[0] + parabola[1] * x + parabola[2] * x * x

    for step in range(steps):
        tune, measure = backdraw.split(backdraw.fold_in(backdraw.key(0), step), 2)
        rebar = {"temperature": log_temperature.exp(), "scale": scale}
        # Both losses at once: they share no parameter.
        bits = backdraw.Bernoulli(logit.repeat(COPIES))
        loss = backdraw.variance_loss("rebar", f, bits, rng=tune, **rebar)
        loss = loss + backdraw.variance_loss("relax", f, bits, rng=tune, surrogate=surrogate)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        tuned = {name: option.detach() for name, option in rebar.items()}
        for name, found in {
            "reinforce": variance(backdraw.reinforce, logit, measure),
            "rloo, 2 samples": variance(backdraw.rloo, logit, measure),
            "rebar, as it comes": variance(backdraw.rebar, logit, measure),
            "rebar, tuned": variance(backdraw.rebar, logit, measure, **tuned),
            "relax, tuned": variance(backdraw.relax, logit, measure, surrogate=surrogate),
        }.items():
            variances[name].append(found)
        _, (slope,) = backdraw.value_and_grad(lambda l: backdraw.exact(f, backdraw.Bernoulli(l)))(logit)
        logit = logit - 800.0 / steps * slope
    return variances


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Draw the picture; return the last variances."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path(), help="where the picture goes")
    parser.add_argument("--quick", action="store_true", help="fewer steps")
    given = parser.parse_args(arguments)
    with threadpool_limits(1):  # the arrays are small: threads would only wait for each other
        variances = run(60 if given.quick else 300)

    fig = Figure(figsize=(6.4, 4.0), layout="constrained", dpi=150)
    ax = fig.subplots()
    for name, (color, line) in STYLES.items():
        ax.semilogy(variances[name], color=color, linestyle=line, label=name)
    ax.set_xlabel("step")
    ax.set_ylabel("variance of the gradient")
    ax.grid(alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    save(fig, given.folder / "tune_rebar.png")
    last = {name: values[-1] for name, values in variances.items()}
    print("variance after the last step:", ", ".join(f"{name} {value:.2g}" for name, value in last.items()))
    return last


if __name__ == "__main__":
    main()

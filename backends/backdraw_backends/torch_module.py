"""A draw as a layer of a PyTorch model, with its schedule."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch._C import _current_graph_task_id as graph_task

from backdraw.distributions import Categorical, Distribution
from backdraw.distributions.checks import check_positive, require
from backdraw.errors import InvalidTypeError, InvalidValueError
from backdraw.estimators import ESTIMATORS, select
from backdraw.estimators import estimator as registered
from backdraw.estimators.hard_concrete import LIMITS, hard_concrete, without_noise


class Draw(torch.nn.Module):
    r"""A draw of the registry as a module: it draws in training, and selects without noise in evaluation.

    In training mode each forward pass calls the estimator at the temperature of the current step, and then counts one
    step, as BatchNorm counts its batches. In evaluation mode it is `backdraw.select`, the likeliest value, exactly 0 and
    1, with the gradient of the mean, and the step stands still. The gates of `backdraw.hard_concrete` are their authors':
    ``sigmoid(logits)`` stretched and clipped, which may lie between 0 and 1 as in training.

    Parameters
    ----------
    estimator : str or callable
        A name of the registry, such as ``"gumbel_softmax"``, or a function that is called in the same way.
    temperature : float, scalar tensor, torch.nn.Parameter or callable, optional
        Or a schedule, such as those of `backdraw.schedules`: it is called with the step, an int64 scalar tensor. A
        Parameter is learned and a tensor is a buffer. The default is the estimator's own.
    **options
        Further options of the estimator: plain values. A mask goes with the logits, into a distribution.

    Attributes
    ----------
    step : torch.Tensor
        A buffer, and so in the ``state_dict``: the forward passes made in training mode.

    Raises
    ------
    TypeError
        If the estimator takes no such option, or an argument is of another type.
    ValueError
        If the registry has no draw of that name, or the temperature is not positive.

    Notes
    -----
    Each forward pass counts: several calls a batch, or several batches an optimizer step, are as many steps. A pass that
    activation checkpointing repeats during the backward pass is not counted, and takes the temperature of the step
    before: that of the original, if the module is called once between two backward passes.

    Examples
    --------
    >>> import torch
    >>> from backdraw import schedules
    >>> from backdraw_backends.torch_module import Draw
    >>> draw = Draw("gumbel_softmax", temperature=schedules.exponential(1.0, 0.1, 1000), hard=True)
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 4), draw)
    >>> model
    Sequential(
      (0): Linear(in_features=8, out_features=4, bias=True)
      (1): Draw(gumbel_softmax, temperature=exponential(start=1.0, stop=0.1, steps=1000), hard=True, step=0)
    )
    >>> model(torch.zeros(2, 8)).sum(-1)
    tensor([1., 1.], grad_fn=<SumBackward1>)
    >>> draw.step
    tensor(1)
    >>> model.eval()(torch.zeros(2, 8)).shape, int(draw.step)
    (torch.Size([2, 4]), 1)
    """

    step: torch.Tensor

    def __init__(self, estimator: str | Callable[..., Any], *, temperature: Any = None, **options: Any) -> None:
        super().__init__()
        self.estimator, self.name, self.options = _resolve(estimator, options)
        taken = inspect.signature(self.estimator).parameters
        self._takes_rng = "rng" in taken
        given = options if temperature is None else {**options, "temperature": temperature}
        for option, value in given.items():
            if option == "rng" or option not in taken or taken[option].kind is not inspect.Parameter.KEYWORD_ONLY:
                offered = [n for n, p in taken.items() if p.kind is p.KEYWORD_ONLY and n != "rng"]
                raise InvalidTypeError(f"{option}: {self.name} takes no such option, only {', '.join(offered) or 'none'}")
            if option != "temperature" and isinstance(value, torch.Tensor):
                raise InvalidTypeError(f"{option}: expected a plain value, got a tensor: pass a distribution to forward")
        if temperature is None and "temperature" in taken:
            temperature = taken["temperature"].default
        if isinstance(temperature, torch.Tensor) or not (temperature is None or callable(temperature)):
            temperature = check_positive("temperature", temperature, _LIKE)
            if isinstance(temperature, torch.Tensor) and not temperature.is_meta:
                check_positive("temperature", float(temperature.detach()), _LIKE)
        if isinstance(temperature, torch.Tensor) and not isinstance(temperature, torch.nn.Parameter):
            self.register_buffer("temperature", temperature)
        else:
            self.temperature = temperature
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def forward(self, logits: torch.Tensor | Distribution, rng: Any = None) -> torch.Tensor:
        """Draw, or in evaluation mode select.

        Parameters
        ----------
        logits : torch.Tensor or Distribution
            What to draw from.
        rng : optional
            As for `backdraw.draw`; not used in evaluation mode.

        Returns
        -------
        torch.Tensor
            Of the shape, dtype and device of the logits.
        """
        if rng is not None and not self._takes_rng:
            raise InvalidTypeError(f"rng: {self.name} draws nothing and takes none, got {type(rng).__name__}")
        if not self.training:
            return self._select(logits)
        again = not torch.compiler.is_compiling() and graph_task() != -1  # inside a backward pass: checkpointing
        step = self.step - 1 if again else self.step
        noise = {"rng": rng} if self._takes_rng else {}
        out = self.estimator(logits, **self.options, **self._at(step), **noise)
        if torch.compiler.is_compiling():
            # Not in place: a compiled backward pass may compute the temperature again, and from the buffer's new value.
            self.step = self.step + 1
        elif not again:
            self.step.add_(1)
        return out

    def _at(self, step: torch.Tensor) -> dict[str, Any]:
        """Return the temperature of a step as an option, if the estimator takes one."""
        if self.temperature is None:
            return {}
        scheduled = callable(self.temperature) and not isinstance(self.temperature, torch.Tensor)
        return {"temperature": self.temperature(step) if scheduled else self.temperature}

    def _select(self, logits: torch.Tensor | Distribution) -> torch.Tensor:
        p: Any = logits if isinstance(logits, Distribution) else self._of_array(logits)
        if self.estimator is hard_concrete:
            return without_noise(p, self.options.get("limits", LIMITS))
        require(p, f"{self.name} in evaluation mode", "argmax")
        # Of the class: torch.compile cannot trace the error that an instance raises.
        return (
            select(p, **self._at(self.step), **self._given("regularizer"))
            if hasattr(type(p), "mean")
            else p.argmax(p.utilities)
        )

    def _of_array(self, logits: torch.Tensor) -> Distribution:
        array = next((e.array for e in ESTIMATORS.values() if e.function is self.estimator), Categorical)
        return array(logits, **self._given("axis"))

    def _given(self, option: str) -> dict[str, Any]:
        return {option: self.options[option]} if option in self.options else {}

    def extra_repr(self) -> str:
        """Say which estimator it is, with its options, and the step."""
        temperature = self.temperature
        if isinstance(temperature, torch.Tensor):
            temperature = f"{type(temperature).__name__}({temperature.item():.4g})" if not temperature.is_meta else "meta"
        shown = {**({} if temperature is None else {"temperature": temperature}), **self.options}
        shown["step"] = "meta" if self.step.is_meta else int(self.step)
        return ", ".join([self.name, *(f"{name}={value}" for name, value in shown.items())])


_LIKE = Categorical(torch.zeros(1))


def _resolve(estimator: Any, options: dict[str, Any]) -> tuple[Callable[..., Any], str, dict[str, Any]]:
    """Return the function, what it is called, and all its options."""
    if isinstance(estimator, str):
        entry = registered(estimator)
        if entry.kind != "draw":
            raise InvalidValueError(f"estimator: expected a draw, got {estimator!r}, which takes a function")
        return entry.function, entry.function.__name__, {**entry.options, **options}
    if not callable(estimator):
        raise InvalidTypeError(f"estimator: expected a name of the registry or a function, got {type(estimator).__name__}")
    return estimator, getattr(estimator, "__name__", repr(estimator)), dict(options)

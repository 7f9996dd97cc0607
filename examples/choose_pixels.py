"""Five of 64 pixels that tell a handwritten digit, chosen image by image: L2X (arXiv 1802.07814), and its pitfall.

A network that sees the whole image gives each pixel a logit, `Subset` draws five of them, and a classifier names the digit
from these alone. The gradient of its loss goes back through the draw: by `straight_through` (exact draws and the marginals'
gradient: SIMPLE, arXiv 2210.01941), by `stochastic_softmax` (relaxed draws), or by `rloo`, that takes no derivative of the
classifier. Measured on held-out images, with the five likeliest pixels, beside five at random, the five of the highest
variance and all 64, the last two with classifiers of their own.

The classifier is trained first, on random choices, and kept. Trained together with the network, as in L2X, the two agree on a
code: which pixels are shown then tells the digit, whatever is in them (arXiv 2103.01890). The picture ``choose_pixels.png``
has these bars too, and beside them how many digits are still named when all pixels are blank.

    python examples/choose_pixels.py [FOLDER] [--quick]
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from sklearn.datasets import load_digits
from threadpoolctl import threadpool_limits
from torch.nn import Linear, ReLU, Sequential

import backdraw
from backdraw.study.pictures import save

CHOSEN, PIXELS, WIDTH, BATCH = 5, 64, 100, 100
ESTIMATORS: dict[str, Callable[..., torch.Tensor]] = {
    "straight_through": lambda f, p: f(backdraw.straight_through(p)),
    "stochastic_softmax": lambda f, p: f(backdraw.stochastic_softmax(p, temperature=0.5)),
    "rloo": lambda f, p: backdraw.rloo(f, p, samples=4),
}


def network(inputs: int, outputs: int) -> Sequential:
    return Sequential(Linear(inputs, WIDTH), ReLU(), Linear(WIDTH, outputs))


class Classifier(torch.nn.Module):
    """Names digits of the pixels shown, and is told which these are."""

    def __init__(self) -> None:
        super().__init__()
        self.body = network(2 * PIXELS, 10)

    def forward(self, images: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
        return self.body(torch.cat([images * shown, shown], -1))

    def loss(self, images: torch.Tensor, digits: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
        """Negative log-likelihood of each digit, and of each sample in front if there are several."""
        found = self(images, shown).log_softmax(-1)
        return -found.gather(-1, digits.expand(found.shape[:-1])[..., None])[..., 0]

    def accuracy(self, images: torch.Tensor, digits: torch.Tensor, shown: torch.Tensor) -> float:
        return float((self(images, shown).argmax(-1) == digits).float().mean())


def fit(loss: Callable[..., torch.Tensor], modules: list[Any], data: Any, epochs: int) -> None:
    """Minimise the mean of a loss of images and digits."""
    optimizer = torch.optim.Adam([p for m in modules for p in m.parameters()], lr=2e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(data[0])).split(BATCH):
            optimizer.zero_grad()
            loss(*(x[batch] for x in data)).mean().backward()
            optimizer.step()


def classifier(choose: Callable[[torch.Tensor], torch.Tensor], data: Any, epochs: int) -> Classifier:
    """Train on the pixels that a rule chooses of the images."""
    made = Classifier()
    fit(lambda images, digits: made.loss(images, digits, choose(images)), [made], data, epochs)
    return made.requires_grad_(False)


def chooser(estimator: str, judge: Classifier, data: Any, epochs: int, together: bool = False) -> Sequential:
    """Train a network that chooses what `judge` sees; `together` trains that one too."""
    made = network(PIXELS, PIXELS)

    def loss(images: torch.Tensor, digits: torch.Tensor) -> torch.Tensor:
        p = backdraw.Subset(made(images), CHOSEN)
        return ESTIMATORS[estimator](lambda shown: judge.loss(images, digits, shown), p)

    fit(loss, [made, judge.requires_grad_(together)] if together else [made], data, epochs)
    return made.requires_grad_(False)


def random_pixels(images: torch.Tensor) -> torch.Tensor:
    return backdraw.draw(backdraw.Subset(torch.zeros_like(images), CHOSEN))


def likeliest(net: Sequential, images: torch.Tensor) -> torch.Tensor:
    return backdraw.select(backdraw.Subset(net(images), CHOSEN))


def run(scale: int) -> tuple[dict[str, float], dict[str, float], tuple[torch.Tensor, ...]]:
    """Return accuracies, those of blank pixels, and held-out images and digits with the pixels chosen of them."""
    torch.manual_seed(0)
    digits = load_digits()
    order = torch.randperm(len(digits.target))
    images, labels = (torch.tensor(a)[order] for a in (digits.data.astype("float32") / 16, digits.target))
    data, held_out = (images[:1200], labels[:1200]), (images[1200:], labels[1200:])
    fixed = torch.zeros(PIXELS)
    fixed[data[0].var(0).topk(CHOSEN).indices] = 1.0

    accuracy, blank, chosen = {}, {}, fixed
    judge = classifier(random_pixels, data, 15 * scale)
    accuracy["random"] = judge.accuracy(*held_out, random_pixels(held_out[0]))
    own = classifier(lambda x: fixed.expand(x.shape), data, 6 * scale)
    accuracy["highest variance"] = own.accuracy(*held_out, fixed.expand(held_out[0].shape))
    zeros = torch.zeros_like(held_out[0])
    for name in ESTIMATORS:
        shown = likeliest(chooser(name, judge, data, 6 * scale), held_out[0])
        accuracy[name], blank[name] = judge.accuracy(*held_out, shown), judge.accuracy(zeros, held_out[1], shown)
        chosen = shown if name == "straight_through" else chosen
    accomplice = Classifier()
    shown = likeliest(chooser("straight_through", accomplice, data, 6 * scale, together=True), held_out[0])
    accuracy["trained together"] = accomplice.accuracy(*held_out, shown)
    blank["trained together"] = accomplice.accuracy(zeros, held_out[1], shown)
    every = classifier(torch.ones_like, data, 6 * scale)
    accuracy["all 64"] = every.accuracy(*held_out, torch.ones_like(zeros))
    return accuracy, blank, (*held_out, chosen)


def main(arguments: list[str] | None = None) -> tuple[dict[str, float], dict[str, float]]:
    """Draw the picture; return the accuracies, and those of blank pixels."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path(), help="where the picture goes")
    parser.add_argument("--quick", action="store_true", help="fewer epochs")
    given = parser.parse_args(arguments)
    with threadpool_limits(1):  # the arrays are small: threads would only wait for each other
        accuracy, blank, (images, digits, chosen) = run(2 if given.quick else 6)

    fig = Figure(figsize=(12.0, 4.0), layout="constrained", dpi=150)
    left, right = fig.subfigures(1, 2, width_ratios=[1.2, 1])
    left.suptitle("held-out digits and the pixels chosen, by straight_through", fontsize="medium")
    for digit, panel in enumerate(left.subplots(2, 5).flat):
        place = (digits == digit).nonzero()[0, 0]
        panel.imshow(images[place].reshape(8, 8).numpy(), cmap="gray_r")
        for pixel in chosen[place].nonzero()[:, 0].tolist():
            corner = pixel % 8 - 0.5, pixel // 8 - 0.5
            panel.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="#D55E00", linewidth=2.0))
        panel.set_axis_off()
    ax = right.subplots()
    names = list(reversed(accuracy))
    colors = ["#0072B2" if name in ESTIMATORS else "#999999" for name in names]
    ax.bar_label(ax.barh(names, [accuracy[name] for name in names], 0.7, color=colors), fmt="{:.0%}", padding=3)
    ax.barh(list(blank), list(blank.values()), 0.25, color="#D55E00", label="all pixels blank")
    ax.set_xlim(0.0, 1.12)
    ax.set_xlabel("accuracy on held-out images")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, loc="upper right")
    save(fig, given.folder / "choose_pixels.png")
    for name, value in accuracy.items():
        print(f"{name}: accuracy {value:.1%}" + (f", with all pixels blank {blank[name]:.1%}" if name in blank else ""))
    return accuracy, blank


if __name__ == "__main__":
    main()

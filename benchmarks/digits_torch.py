"""The digits model of ``backdraw train digits`` beside the same model as a user of PyTorch would write it.

Both train on the same images for the same number of steps, with Adam, the same sizes, distribution of the initial
parameters and annealing of the temperature, and both are measured on the held-out images by the mean negative ELBO of
20 exact draws each. Run with ``python benchmarks/digits_torch.py --help``.
"""

import argparse
import math
import statistics
import time

import torch
import torch.nn.functional as F
from threadpoolctl import threadpool_limits
from torch import nn

from backdraw.study import digits


class Model(nn.Module):
    """A categorical autoencoder, its draws relaxed by `torch.nn.functional.gumbel_softmax`."""

    def __init__(self, config: digits.Config) -> None:
        super().__init__()
        self.latents, self.categories = config.latents, config.categories
        code = self.latents * self.categories
        self.encoder = nn.Sequential(nn.Linear(64, config.width), nn.ReLU(), nn.Linear(config.width, code))
        self.decoder = nn.Sequential(nn.Linear(code, config.width), nn.ReLU(), nn.Linear(config.width, 64))

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits of the codes."""
        return self.encoder(x).view(-1, self.latents, self.categories)

    def negative_elbo(self, x: torch.Tensor, logits: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """Return the mean over images, in nats."""
        pixels = self.decoder(z.flatten(1))
        cross_entropy = F.binary_cross_entropy_with_logits(pixels, x, reduction="none").sum(1)
        log_q = F.log_softmax(logits, -1)
        kl = (log_q.exp() * (log_q + math.log(self.categories))).sum((1, 2))
        return (cross_entropy + kl).mean()


def train(config: digits.Config, images: torch.Tensor) -> Model:
    """Train in plain torch."""
    torch.manual_seed(config.seed)
    model = Model(config)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    temperature = config.schedule(config.epochs * (len(images) // config.batch))
    step = 0
    for _ in range(config.epochs):
        for batch in torch.randperm(len(images)).split(config.batch):
            x = images[batch]
            logits = model.encode(x)
            z = F.gumbel_softmax(logits, temperature(step), hard=config.estimator == "gumbel_softmax_hard")
            loss = model.negative_elbo(x, logits, z)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
    return model


@torch.no_grad()
def evaluate(model: Model, images: torch.Tensor, samples: int = 20) -> float:
    """Return the held-out negative ELBO from exact draws."""
    logits = model.encode(images)
    q = torch.distributions.OneHotCategorical(logits=logits)
    return statistics.fmean(model.negative_elbo(images, logits, q.sample()).item() for _ in range(samples))


def main() -> None:
    """Print a table: plain torch and ours for several seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="numpy", help="what ours computes on")
    parser.add_argument("--estimator", default="gumbel_softmax", choices=("gumbel_softmax", "gumbel_softmax_hard"))
    parser.add_argument("--epochs", type=int, default=digits.Config.epochs)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    images, held_out = digits.load()
    theirs, ours = [], []
    print("held-out negative ELBO, nats per image (seconds)")
    print(f"{'seed':>4}  {'plain torch':>18}  {'backdraw on ' + options.backend:>18}")
    with threadpool_limits(1):
        torch.set_num_threads(1)
        for seed in range(options.seeds):
            config = digits.Config(backend=options.backend, estimator=options.estimator, epochs=options.epochs, seed=seed)
            start = time.perf_counter()
            model = train(config, torch.tensor(images, dtype=torch.float32))
            theirs.append(evaluate(model, torch.tensor(held_out, dtype=torch.float32)))
            middle = time.perf_counter()
            ours.append(digits.train(config, images, held_out).held_out)
            end = time.perf_counter()
            print(f"{seed:4d}  {theirs[-1]:10.3f} ({middle - start:5.1f})  {ours[-1]:10.3f} ({end - middle:5.1f})", flush=True)
    mean, reference = statistics.fmean(ours), statistics.fmean(theirs)
    print(f"mean  {reference:10.3f}  {'':6}  {mean:11.3f}           ours over theirs: {mean / reference - 1:+.2%}")


if __name__ == "__main__":
    main()

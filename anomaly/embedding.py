"""The published form of the product check: does a photo, put into words, resemble a known product?

Each product is described once by hand, by attributes such as "fine" or "scratched". A variational autoencoder (Kingma &
Welling, ICLR 2014) whose prior of each product lies at its attributes learns what of them the features of photos bear
out; the mean code of a product is its embedding. A second one draws features of a product from its embedding, together
with a Wasserstein critic (Gulrajani et al., NeurIPS 2017), and an encoder that recovers the embedding from features
learns from real and from drawn ones: TF-VAEGAN (Narayan et al., ECCV 2020), with squared errors instead of absolute
ones. A photo whose recovered embedding is far from those of all known products shows none of them; what was recovered
says in words what it may be.

`gate` is what the app asks. This stands beside it for comparison, `benchmarks/two_stage.py` measures both.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from anomaly.errors import BrokenRun, TooFewImages, UsageError

HIDDEN = 512
LEAST = 10  # photos of a product
HELD_OUT = 5  # every fifth photo learns nothing and sets the limits
REFUSED = 0.01  # of further photos of known products, on average
BATCH, RATE = 128, 5e-4
EPOCHS_EMBEDDING, EPOCHS_DRAWING = 20, 20
PENALTY = 10.0  # of the critic's slope, as published
SAID = 0.5  # an attribute is 0 or 1; from here on it is said to be there
SCHEMA = 1
LOSSES = {"squared": F.mse_loss, "absolute": F.l1_loss}


@dataclass(frozen=True)
class Seen:
    """What the embedding says of one photo.

    Attributes:
        nearest: the known product whose embedding is nearest.
        distance: to it; over 1, its limit, the photo shows none of the known products.
        attributes: what the photo looks like, in words.
    """

    nearest: str
    distance: float
    attributes: tuple[str, ...]

    @property
    def known(self) -> bool:
        return self.distance <= 1

    def alarm(self) -> str:
        """What is said of a photo of an unknown product."""
        looks = ", ".join(self.attributes) or "none of the known attributes"
        return f"This shows none of the known products; it looks like: {looks}; the nearest is {self.nearest}"


@dataclass(frozen=True)
class Embedding:
    """Known products in the space of attributes.

    Attributes:
        words: the A attributes; products: the P names.
        places: (P, A) embeddings; limits: (P,) distances from them, beyond which a photo shows something else.
        low, high: (C,) range of the features that were learned from.
        recover: features (B, C) in that range, 0..1, to embeddings (B, A).
    """

    words: tuple[str, ...]
    products: tuple[str, ...]
    places: Tensor
    limits: Tensor
    low: Tensor
    high: Tensor
    recover: nn.Module

    def look(self, features: np.ndarray) -> list[Seen]:
        """What photos show, of (N, C) features as `gate.describe` gives them."""
        with torch.inference_mode():
            found = self.recover(_ranged(torch.as_tensor(features).float(), self.low, self.high))
        apart = torch.cdist(found, self.places) / self.limits
        return [
            Seen(
                self.products[int(row.argmin())],
                float(row.min()),
                tuple(word for word, value in zip(self.words, one.tolist()) if value > SAID),
            )
            for row, one in zip(apart, found)
        ]


def learn(
    features: Mapping[str, np.ndarray],
    attributes: Mapping[str, Sequence[str]],
    *,
    words: Sequence[str],
    learned: bool = True,
    loss: str = "squared",
    seed: int = 0,
) -> Embedding:
    """Known products from features of their photos, defective ones among them, and hand-written attributes.

    Args:
        features: {product: (N, C)}; attributes: {product: those of `words` that it has}.
        learned: False takes the hand-written attributes themselves for the embeddings.
        loss: of the recovered embedding, "squared" or, as TF-VAEGAN has it, "absolute".
    Raises:
        TooFewImages: a product with fewer than ten photos.
        UsageError: a product without attributes, or an attribute that is none of the words.
    """
    products = tuple(features)
    written = torch.stack([_written(name, attributes, words) for name in products])
    for name, one in features.items():
        if len(one) < LEAST:
            problem = f"{len(one)} photos of '{name}' were given, it takes {LEAST}"
            raise TooFewImages(problem, "Add photos of it")
    x = torch.as_tensor(np.concatenate(list(features.values()))).float()
    y = torch.repeat_interleave(torch.arange(len(products)), torch.tensor([len(one) for one in features.values()]))
    kept = torch.cat([torch.arange(len(one)) % HELD_OUT == HELD_OUT - 1 for one in features.values()])
    low, high = x[~kept].amin(0), x[~kept].amax(0)
    x = _ranged(x, low, high)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        places = _embedded(x[~kept], y[~kept], written, generator) if learned else written
        recover = _recovering(x[~kept], places[y[~kept]], LOSSES[loss], generator).eval().requires_grad_(False)
    apart = (recover(x[kept]) - places[y[kept]]).norm(dim=1)
    usual = torch.stack([apart[y[kept] == i].mean() for i in range(len(products))]).clamp_min(1e-6)
    ratios = (apart / usual[y[kept]]).sort().values
    limit = ratios[min(len(ratios), math.ceil((1 - REFUSED) * (len(ratios) + 1))) - 1]
    return Embedding(tuple(words), products, places, limit * usual, low, high, recover)


def save(embedding: Embedding, path: Path) -> None:
    """Write an embedding as safetensors, with its names in the header."""
    tensors = {name: getattr(embedding, name) for name in ("places", "limits", "low", "high")}
    tensors |= {f"recover.{name}": value for name, value in embedding.recover.state_dict().items()}
    about = {"schema": SCHEMA, "words": embedding.words, "products": embedding.products}
    save_file({k: v.contiguous() for k, v in tensors.items()}, path, metadata={"embedding": json.dumps(about)})
    path.chmod(0o644)


def load(path: Path) -> Embedding:
    """The embedding that `save` wrote. Raises BrokenRun when the file is missing, damaged or of another version."""
    remedy = "Learn the embedding again"
    if not path.is_file():
        raise BrokenRun(f"The embeddings of the known products, {path}, are missing", remedy)
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})["embedding"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
        if about["schema"] != SCHEMA:
            raise BrokenRun(f"{path} is of schema {about['schema']}, {SCHEMA} was expected", remedy)
        recover = _perceptron(len(tensors["low"]), len(about["words"]))
        weights = {k.removeprefix("recover."): v for k, v in tensors.items() if k.startswith("recover.")}
        recover.load_state_dict(weights)
        kept = (tensors[name] for name in ("places", "limits", "low", "high"))
        return Embedding(tuple(about["words"]), tuple(about["products"]), *kept, recover.eval().requires_grad_(False))
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise BrokenRun(f"{path} is damaged ({type(error).__name__})", remedy) from error


def _embedded(x: Tensor, y: Tensor, written: Tensor, generator: torch.Generator) -> Tensor:
    """(P, A) mean codes of the products, from a variational autoencoder whose priors lie at the attributes.

    Args:
        x: (N, C) features, 0..1; y: (N,) numbers of products; written: (P, A).
    """
    encode, decode = _perceptron(x.shape[1], 2 * written.shape[1]), _perceptron(written.shape[1], x.shape[1])
    optimiser = torch.optim.Adam([*encode.parameters(), *decode.parameters()], RATE)
    for picks in _epochs(len(x), EPOCHS_EMBEDDING, generator):
        mean, spread = encode(x[picks]).chunk(2, 1)
        drawn = decode(_drawn(mean, spread, generator))
        lost = F.binary_cross_entropy_with_logits(drawn, x[picks], reduction="sum")
        _descend(optimiser, (lost + _divergence(mean, spread, written[y[picks]])) / len(picks))
    with torch.inference_mode():
        codes = encode(x).chunk(2, 1)[0]
    return torch.stack([codes[y == i].mean(0) for i in range(len(written))]).clone()


def _recovering(x: Tensor, e: Tensor, loss, generator: torch.Generator) -> nn.Module:
    """The encoder that recovers embeddings, trained beside a VAEGAN: (B, C) -> (B, A).

    Args:
        x: (N, C) features, 0..1; e: (N, A) the embeddings of their products.
    """
    (_, channels), size = x.shape, e.shape[1]
    encode, decode = _perceptron(channels + size, 2 * size), _perceptron(2 * size, channels)
    critic, recover = _perceptron(channels + size, 1), _perceptron(channels, size)
    drawing, judging, recovering = (
        torch.optim.Adam(parameters, RATE, betas=(0.5, 0.999))
        for parameters in ([*encode.parameters(), *decode.parameters()], critic.parameters(), recover.parameters())
    )

    def drawn(code: Tensor, known: Tensor) -> Tensor:
        return decode(torch.cat((code, known), 1))

    def judged(features: Tensor, known: Tensor) -> Tensor:
        return critic(torch.cat((features, known), 1))

    for picks in _epochs(len(x), EPOCHS_DRAWING, generator):
        real, known = x[picks], e[picks]
        noise = torch.randn(known.shape, generator=generator)
        with torch.no_grad():
            fake = drawn(noise, known).sigmoid()
        between = torch.lerp(fake, real, torch.rand(len(real), 1, generator=generator)).requires_grad_(True)
        (slope,) = torch.autograd.grad(judged(between, known).sum(), between, create_graph=True)
        penalty = PENALTY * (slope.norm(dim=1) - 1).square().mean()
        _descend(judging, judged(fake, known).mean() - judged(real, known).mean() + penalty)

        mean, spread = encode(torch.cat((real, known), 1)).chunk(2, 1)
        again = drawn(_drawn(mean, spread, generator), known)
        lost = F.binary_cross_entropy_with_logits(again, real, reduction="sum")
        fake = drawn(noise, known).sigmoid()
        evidence = (lost + _divergence(mean, spread, torch.zeros_like(mean))) / len(real)
        # What is drawn shall pass for real, and show what it was drawn from: decoder and encoder, the other way round.
        _descend(drawing, evidence - judged(fake, known).mean() + loss(recover(fake), known))
        _descend(recovering, loss(recover(real), known) + loss(recover(fake.detach()), known))
    return recover


def _perceptron(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, HIDDEN), nn.LeakyReLU(0.2), nn.Linear(HIDDEN, outputs))


def _epochs(n: int, epochs: int, generator: torch.Generator):
    """Batches of numbers: each once, in another order each epoch."""
    for _ in range(epochs):
        yield from torch.randperm(n, generator=generator).split(BATCH)


def _drawn(mean: Tensor, spread: Tensor, generator: torch.Generator) -> Tensor:
    """Codes drawn from Gaussians; spread is the logarithm of their variance."""
    return mean + (0.5 * spread).exp() * torch.randn(mean.shape, generator=generator)


def _divergence(mean: Tensor, spread: Tensor, prior: Tensor) -> Tensor:
    """Kullback-Leibler divergence from Gaussians of variance 1 around `prior`, summed."""
    return 0.5 * (spread.exp() + (mean - prior).square() - 1 - spread).sum()


def _descend(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()


def _ranged(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return ((x - low) / (high - low).clamp_min(1e-6)).clamp(0, 1)


def _written(name: str, attributes: Mapping[str, Sequence[str]], words: Sequence[str]) -> Tensor:
    """(A,) 0 or 1."""
    if not attributes.get(name):
        raise UsageError(f"The product '{name}' has no attributes", f"Describe it by some of: {', '.join(words)}")
    if unknown := set(attributes[name]) - set(words):
        problem = f"'{name}' has the attribute '{min(unknown)}', which is unknown"
        raise UsageError(problem, f"Choose among: {', '.join(words)}")
    return torch.tensor([float(word in attributes[name]) for word in words])

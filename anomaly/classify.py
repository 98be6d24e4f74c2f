"""Classifiers of labelled photos: a small network for surfaces, or the backbone, fine-tuned.

`cnn` is the usual network for steel surfaces: four blocks of convolution, batch normalisation, ReLU and pooling, as
on the NEU surface defect database (Song and Yan, Applied Surface Science 2013). `convnext` starts from the shipped
backbone (ConvNeXt V2, Woo et al., CVPR 2023) and learns all of it, by Adam at 1e-4 in batches of 16 for 20 epochs. Of
each class 80% of the photos teach, 10% choose the epoch by their accuracy, and 10% are kept for the test.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly import backbones, files, runs
from anomaly.dataset import LazyImages, Sample
from anomaly.descent import Budget, descend
from anomaly.detectors.base import Batches, Progress
from anomaly.errors import BrokenRun, DatasetError, UnknownName
from anomaly.images import resize_map, stretch
from anomaly.nets import FineTuned, SurfaceNet
from anomaly.thresholds import interval

PARTS = {"train": 0.8, "validation": 0.1, "test": 0.1}
LEAST = 3  # photos of a class: one for each part
WARM_UP = 0.04  # of a training of `cnn`, until its full rate
LIGHT, LIFT = 0.2, 0.05  # contrast and brightness vary by so much while learning
BATCH = 32  # photos looked at together when nothing is learned
TINY = 1e-3
KIND = "classifier"
SCHEMA = 1
REMEDY = "Train it again with `python -m anomaly classify`"


@dataclass(frozen=True)
class Recipe:
    """How a kind of classifier learns: side of its input in pixels, epochs, photos a step, learning rate of Adam."""

    side: int
    epochs: int
    batch: int
    rate: float
    decays: bool  # the rate rises at first and falls along a cosine to 0


RECIPES = {
    "cnn": Recipe(side=64, epochs=30, batch=32, rate=2e-3, decays=True),
    "convnext": Recipe(side=128, epochs=20, batch=16, rate=1e-4, decays=False),
}


@dataclass(frozen=True)
class Figures:
    """What a classifier makes of photos whose class is known.

    Attributes:
        confusion: (K, K) photos by their class, down, and by what was said, across.
    """

    classes: tuple[str, ...]
    confusion: np.ndarray

    @property
    def n(self) -> int:
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        return float(np.trace(self.confusion) / self.n)

    def to_json(self) -> dict:
        low, high = interval(int(np.trace(self.confusion)), self.n)
        return {
            "n": self.n,
            "accuracy": self.accuracy,
            "interval": [low, high],
            "classes": list(self.classes),
            "confusion": self.confusion.tolist(),
        }


@dataclass(frozen=True)
class Classifier:
    """A trained classifier.

    Attributes:
        model: key of `RECIPES`; classes: their names, in alphabetical order.
        split: names of the photos of each part; history: a line of the loss curve each epoch.
    """

    model: str
    classes: tuple[str, ...]
    network: nn.Module
    split: dict[str, list[str]] = field(default_factory=dict)
    history: tuple[dict, ...] = ()

    def probabilities(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """(N, K) float64, of (H, W, 3) uint8 RGB images of any sizes; may be lazy."""
        found = []
        for start in range(0, len(images), BATCH):
            batch = _pixels(images[start : start + BATCH], RECIPES[self.model].side).float() / 255
            with torch.inference_mode():
                found.append(self.network(batch).softmax(1).double())
        return torch.cat(found).numpy() if found else np.zeros((0, len(self.classes)))

    def explain(self, image: np.ndarray, name: str) -> np.ndarray:
        """Where the evidence for a class lies, by Grad-CAM (Selvaraju et al., ICCV 2017).

        Args:
            image: (H, W, 3) uint8 RGB; name: one of the classes.
        Returns:
            (H, W) float32 from 0 to 1; all 0 where nothing speaks for the class.
        """
        if name not in self.classes:
            raise UnknownName(f"The classifier knows no class '{name}'", f"Choose one of: {', '.join(self.classes)}")
        batch = _pixels([image], RECIPES[self.model].side).float() / 255
        with torch.no_grad():
            features = self.network.features(batch)
        features.requires_grad_(True)
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(self.network.classify(features)[0, self.classes.index(name)], features)
        evidence = (slope.mean((2, 3), keepdim=True) * features.detach()).sum(1)[0].relu()
        heat = resize_map(evidence.numpy(), image.shape[:2])
        return heat / max(float(heat.max()), 1e-12)

    def evaluate(self, samples: Sequence[Sample]) -> Figures:
        """Figures on photos whose class is known.

        Raises:
            DatasetError: a photo of a class that the classifier does not know, or not a single photo.
        """
        if not samples:
            raise DatasetError("There are no labelled photos to evaluate on", "Add photos, a folder for each class")
        strange = sorted({sample.kind for sample in samples} - {*self.classes})
        if strange:
            problem = f"The classifier was trained for {_listed(self.classes)}; the photos show {_listed(strange)}, too"
            raise DatasetError(problem, "Give photos of its classes, or train it on these")
        said = self.probabilities(LazyImages([sample.path for sample in samples])).argmax(1)
        confusion = np.zeros((len(self.classes),) * 2, int)
        np.add.at(confusion, ([self.classes.index(sample.kind) for sample in samples], said), 1)
        return Figures(self.classes, confusion)


def split(samples: Sequence[Sample], *, seed: int = 0) -> dict[str, list[Sample]]:
    """Draw the three parts of each class by itself, one photo of it at least in each.

    Raises:
        DatasetError: fewer than two classes, or a class of less than three photos.
    """
    counts = Counter(sample.kind for sample in samples)
    few = [f"'{kind}' has {count}" for kind, count in sorted(counts.items()) if count < LEAST]
    if few:
        problem = f"Each class needs at least {LEAST} photos, to learn, to choose and to test; {', '.join(few)}"
        raise DatasetError(problem, "Add photos of it, or take its folder away")
    if len(counts) < 2:
        raise DatasetError(f"{len(counts)} class was found, two are the least to tell apart", "Add a folder a class")
    rng = np.random.default_rng(seed)
    parts: dict[str, list[Sample]] = {name: [] for name in PARTS}
    for kind in sorted(counts):
        own = [sample for sample in samples if sample.kind == kind]
        own = [own[i] for i in rng.permutation(len(own))]
        tenth = max(1, round(PARTS["test"] * len(own)))
        parts["test"] += own[:tenth]
        parts["validation"] += own[tenth : 2 * tenth]
        parts["train"] += own[2 * tenth :]
    return parts


def train(
    samples: Sequence[Sample],
    model: str,
    *,
    seed: int = 0,
    epochs: int | None = None,
    minutes: float | None = None,
    progress: Progress | None = None,
) -> Classifier:
    """Learn the classes of labelled photos; the epoch with the best accuracy on the validation photos is kept.

    Args:
        model: key of `RECIPES`; epochs: None takes those of the recipe; minutes: wall time after which it ends early.
    Raises:
        UnknownName: no such model; DatasetError: as in `split`; ImageError: a photo cannot be read.
    """
    if model not in RECIPES:
        raise UnknownName(f"There is no classifier '{model}'", f"Choose one of: {', '.join(RECIPES)}")
    recipe, parts = RECIPES[model], split(samples, seed=seed)
    classes = tuple(sorted({sample.kind for sample in samples}))
    batches, labels = {}, {}
    for name in ("train", "validation"):
        batches[name] = Batches(_pixels(LazyImages([one.path for one in parts[name]]), recipe.side))
        labels[name] = torch.tensor([classes.index(one.kind) for one in parts[name]])
    history: list[dict] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build(model, len(classes))
        steps = max(1, len(batches["train"]) // recipe.batch)
        budget = Budget(epochs or recipe.epochs, steps, minutes, patience=epochs or recipe.epochs)
        best = descend(
            budget,
            network,
            _Step(network, batches["train"], labels["train"], recipe, steps),
            lambda: _wrong(network, batches["validation"], labels["validation"]),
            told=lambda line, last: history.append(line),
            progress=progress or (lambda stage, done, total: None),
        )
    names = {part: [_name(sample) for sample in found] for part, found in parts.items()}
    return Classifier(model, classes, best.eval(), names, tuple(history))


class _Step:
    """One update of the network, as `descend` asks for it; the photos come in a new order each epoch."""

    def __init__(self, network: nn.Module, batches: Batches, labels: Tensor, recipe: Recipe, steps: int):
        self._network, self._batches, self._labels = network, batches, labels
        self._recipe, self._steps = recipe, steps
        self._adam = torch.optim.Adam(network.parameters(), recipe.rate)

    def __call__(self, number: int, spent: float) -> tuple[float, float]:
        recipe, place = self._recipe, number % self._steps
        if place == 0:
            self._order = torch.randperm(len(self._batches))
            self._network.train()
        chosen = self._order[recipe.batch * place : recipe.batch * (place + 1)]
        loss = F.cross_entropy(self._network(_varied(self._batches.take(chosen))), self._labels[chosen])
        rate = recipe.rate
        if recipe.decays:
            rate *= min(1.0, (spent + TINY) / WARM_UP) * (1 + math.cos(math.pi * spent)) / 2
        for group in self._adam.param_groups:
            group["lr"] = rate
        self._adam.zero_grad()
        loss.backward()
        self._adam.step()
        return loss.item(), rate


def _wrong(network: nn.Module, batches: Batches, labels: Tensor) -> float:
    """Share of wrong answers; of equally many the surer ones are better, by less than one answer counts."""
    network.eval()
    with torch.inference_mode():
        logits = torch.cat([network(batch) for batch in batches])
    doubt = float(F.cross_entropy(logits, labels))
    return float((logits.argmax(1) != labels).float().mean()) + doubt / (1 + doubt) / (2 * len(labels))


def _varied(batch: Tensor) -> Tensor:
    """The photos (B, 3, H, W) turned or mirrored, all in one way, and each in a little other light."""
    way = int(torch.randint(8, ()))
    turned = torch.rot90(batch.flip(3) if way > 3 else batch, way % 4, (2, 3))
    contrast, lift = (2 * torch.rand(2, len(batch), 1, 1, 1) - 1) * torch.tensor([LIGHT, LIFT]).view(2, 1, 1, 1, 1)
    return ((turned - 0.5) * (1 + contrast) + 0.5 + lift).contiguous(memory_format=torch.channels_last)


def build(model: str, classes: int) -> nn.Module:
    """The network of a kind of classifier, before it has learned a class."""
    if model == "cnn":
        network = SurfaceNet(classes=classes)
    else:
        trunk = copy.deepcopy(backbones.load()).requires_grad_(True)
        network = FineTuned(trunk=trunk, channels=trunk.channels[-1], classes=classes)
    return network.to(memory_format=torch.channels_last)


def save(classifier: Classifier, path: Path) -> None:
    """Write a classifier as one safetensors file, sealed by a digest. Raises CannotSave."""
    about = {
        "schema": SCHEMA,
        "model": classifier.model,
        "classes": classifier.classes,
        "split": classifier.split,
        "history": classifier.history,
    }
    tensors = {name: value.numpy() for name, value in classifier.network.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with runs.replacing(path) as part:
        files.save_sealed(part, KIND, about, tensors)


def load(path: Path) -> Classifier:
    """The classifier that `save` wrote. Raises BrokenRun: missing, damaged, or no classifier of this version."""
    about, tensors = files.load_sealed(path, KIND, REMEDY)
    try:
        if about["schema"] != SCHEMA:
            raise BrokenRun(f"{path} is of schema {about['schema']}, {SCHEMA} was expected", REMEDY)
        with torch.random.fork_rng(devices=[]):
            network = build(about["model"], len(about["classes"])).eval()
        network.load_state_dict({name: torch.from_numpy(value) for name, value in tensors.items()})
        classes, history = tuple(about["classes"]), tuple(about["history"])
        return Classifier(about["model"], classes, network, about["split"], history)
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise BrokenRun(f"{path} is damaged ({type(error).__name__})", REMEDY) from error


def tested(classifier: Classifier, samples: Sequence[Sample]) -> list[Sample]:
    """Those of the photos that the classifier kept for its test; all of them where it knows none of these."""
    known = {name for names in classifier.split.values() for name in names}
    own = [sample for sample in samples if _name(sample) in {*classifier.split["test"]}]
    return own if own or any(_name(sample) in known for sample in samples) else list(samples)


def _name(sample: Sample) -> str:
    """The same wherever the data lie: class, side of the test if there is one, file."""
    side = f"{sample.path.parts[-3]}/" if "/" in sample.kind else ""
    return f"{sample.kind}/{side}{sample.path.name}"


def _pixels(images: Sequence[np.ndarray], side: int) -> Tensor:
    """(N, 3, side, side) uint8."""
    found = torch.empty(len(images), 3, side, side, dtype=torch.uint8)
    for i in range(len(images)):
        found[i] = torch.from_numpy(stretch(images[i], (side, side))).permute(2, 0, 1)
    return found


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (" …" if len(names) > 12 else "")

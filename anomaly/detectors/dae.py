"""Denoising autoencoder: `cae` that is given noisy photos and has to give the clean ones back.

Noise on the input keeps a network from passing on what it has not understood (Vincent et al., ICML 2008). Grain it
does remove; a scratch or a dent is no grain, so this network copies defects about as faithfully as `cae` does. It is a
baseline; `unet`, which learns to remove simulated defects instead of noise, is what this idea has become.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from anomaly.detectors.cae import Cae, squared_error

NOISE = 0.3  # deviation of the noise, where those of ImageNet's channels are 1


class Dae(Cae):
    """`Cae` that learns from noisy photos; when it scores, there is no noise. Arguments are those of `Cae`."""

    def _loss(self, network: nn.Module, images: Tensor, epoch: int, generator: torch.Generator) -> Tensor:
        noise = torch.randn(images.shape, generator=generator).to(images.device)
        return squared_error(network(images + NOISE * noise), images)

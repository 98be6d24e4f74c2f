"""Variational autoencoder: `cae` whose code is a Gaussian of 128 dimensions.

The code is drawn while it learns (Kingma and Welling, ICLR 2014) and is its mean when it scores (An and Cho, 2015); the
weight of the divergence grows from 0 to 1 over the first epochs, or the network would ignore its code (Bowman et al.,
CoNLL 2016). So narrow a code copies no defect. Its weakness is the opposite: it gives no fine structure back at all, so
that every edge of a good photo counts as an error, and a few hundred photos are little for its 25 million weights. Two
of its three dense layers are stored, 33 MB at 256 x 256 pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from anomaly import nets
from anomaly.detectors.base import Batches, Progress
from anomaly.detectors.cae import Cae, squared_error

ANNEALED = 10  # epochs until the divergence has its full weight


class Vae(Cae):
    """`Cae` with a narrow random code. Arguments are those of `Cae`; the weights grow with the area of the images."""

    def _begin(self) -> nn.Module:
        return nets.VariationalAutoencoder(frame=self._frame)

    def _stored(self) -> nn.Module:
        return nets.VariationalAutoencoder(frame=self._frame, spread=False)

    def _train(
        self, network: nn.Module, batches: Batches, seen: Tensor, left_out: Tensor, progress: Progress
    ) -> nn.Module:
        best = super()._train(network, batches, seen, left_out, progress)
        best.log_variance = None  # codes are drawn no more
        return best

    def _loss(self, network: nn.Module, images: Tensor, epoch: int, generator: torch.Generator) -> Tensor:
        mean, log_variance = (part.float() for part in network.code(images))
        noise = torch.randn(mean.shape, generator=generator).to(mean.device)
        made = network.decode(mean + noise * (log_variance / 2).exp())
        return squared_error(made, images) + min(1.0, epoch / ANNEALED) * divergence(mean, log_variance, images)

    def _held_out_loss(self, network: nn.Module, images: Tensor) -> Tensor:
        mean, log_variance = (part.float() for part in network.code(images))
        return squared_error(network.decode(mean), images) + divergence(mean, log_variance, images)


def divergence(mean: Tensor, log_variance: Tensor, images: Tensor) -> Tensor:
    """Kullback-Leibler divergence of a Gaussian code from the standard one, in units of the mean squared error.

    The evidence bound of images with noise of variance 1 is half their summed squared error plus the divergence; both
    are divided by half the number of values.

    Args:
        mean, log_variance: (B, latent); images: (B, 3, h, w).
    """
    summed = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
    return 2 * summed.mean() / images[0].numel()

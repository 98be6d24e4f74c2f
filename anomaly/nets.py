"""Networks as plain modules: shapes in, shapes out, no training code."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from timm.layers.grn import GlobalResponseNorm
from torch import Tensor, nn

WIDTHS = (32, 64, 128, 256)  # channels of an autoencoder's levels, each at half the size of the one before
SILENT = 1e-24  # squares of a channel that says nothing, summed
LOG_VARIANCE = (-20.0, 2.0)  # below and above, exp() of it is as good as nothing, or drowns the code in noise


class UNet(nn.Module):
    """U-shaped repair network with skips (Ronneberger et al., MICCAI 2015).

    The first step folds 2x2 pixels into channels, so that no convolution runs at full size: four times cheaper on a
    CPU, with nothing thrown away. The repair is predicted as a change of the input: a good part costs no capacity.

    Args:
        base: channels of the finest level, doubled at each of `levels - 1` further ones up to `widest`.
    """

    def __init__(self, *, base: int = 16, levels: int = 5, widest: int = 128):
        super().__init__()
        widths = [min(base * 2**i, widest) for i in range(levels)]
        self.stem = _Block(12, widths[0])
        self.down = nn.ModuleList(_Block(a, b) for a, b in zip(widths, widths[1:]))
        self.up = nn.ModuleList(_Block(a + b, b) for a, b in zip(widths[:0:-1], widths[-2::-1]))
        self.head = nn.Conv2d(widths[0], 12 + 4, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        nn.init.constant_(self.head.bias[12:], -4.0)  # defects are rare: start from "none"

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Repair images and say where.

        Args:
            images: (B, 3, H, W) float in [0, 1]; H and W multiples of 2^levels.
        Returns:
            Repaired images (B, 3, H, W), not clamped; and logits (B, 1, H, W) of "this pixel was damaged".
        """
        x = self.stem(F.pixel_unshuffle(images - 0.5, 2))  # (B, 12, H/2, W/2) -> (B, base, H/2, W/2)
        skips = [x]
        for block in self.down:
            x = block(F.max_pool2d(x, 2))
            skips.append(x)
        for block, skip in zip(self.up, skips[-2::-1]):
            x = block(torch.cat((F.interpolate(x, scale_factor=2.0, mode="nearest"), skip), 1))
        out = self.head(x)
        return images + F.pixel_shuffle(out[:, :12], 2), F.pixel_shuffle(out[:, 12:], 2)


class Marker(nn.Module):
    """Says which places of a pretrained network's features look damaged, as they and their neighbours are.

    Args:
        channels: of the features.
    """

    def __init__(self, channels: int):
        super().__init__()
        width = 64
        self.norm = nn.BatchNorm2d(channels)
        self.body = nn.Sequential(_step(channels, width, kernel=1), _step(width, width), _step(width, width))
        self.head = nn.Conv2d(width, 1, 1)
        nn.init.constant_(self.head.bias, -4.0)  # defects are rare: start from "none"

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, h, w) -> logits (B, 1, h, w) of "this place was damaged"."""
        return self.head(self.body(self.norm(features)))


class _Block(nn.Sequential):
    """Two 3x3 convolutions, each with batch normalisation and ReLU."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )


class SegDec(nn.Module):
    """Segmentation network with a decision network on its features (Božič et al., Computers in Industry 2021).

    Much smaller than the published one, for CPUs: 2x2 pixels are folded into channels at once, kernels are 3x3 and not
    5x5, the last one, of 15x15, takes every third place of each channel by itself, and of 1,024 features 128 are left.

    Args:
        base: channels of the finest level; twice as many at the coarser ones, eight times as many features.
    """

    def __init__(self, *, base: int = 16):
        super().__init__()
        self.features = nn.Sequential(
            _step(12, base),
            _step(base, base),
            nn.MaxPool2d(2),
            _step(base, 2 * base),
            _step(2 * base, 2 * base),
            _step(2 * base, 2 * base),
            nn.MaxPool2d(2),
            *(_step(2 * base, 2 * base) for _ in range(4)),
            _Far(2 * base, 2 * base, 5, padding=6, dilation=3, groups=2 * base, bias=False),
            _step(2 * base, 8 * base, kernel=1),
        )
        self.mark = nn.Conv2d(8 * base, 1, 1)
        self.decide = nn.Sequential(
            nn.MaxPool2d(2),
            _step(8 * base + 1, 8, kernel=5),
            nn.MaxPool2d(2),
            _step(8, 16, kernel=5),
            _step(16, 32, kernel=5),
        )
        self.verdict = nn.Linear(2 * 32 + 2, 1)
        nn.init.constant_(self.mark.bias, -4.0)  # defects are rare: start from "none"
        nn.init.zeros_(self.verdict.weight)
        nn.init.constant_(self.verdict.weight[:, 64], 1.0)  # marks speak for a defect, also where nobody drew masks

    def forward(self, images: Tensor, stopped: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Say whether there is a defect, and where.

        Args:
            images: (B, 3, H, W) float in [0, 1]; H and W multiples of 32.
            stopped: (B,) bool, images of which the decision teaches the segmentation nothing; None is all of them.
        Returns:
            Logits (B,) of "there is a defect", and (B, 1, H/8, W/8) of "it is here".
        """
        features = self.features(F.pixel_unshuffle(images - 0.5, 2))
        marks = self.mark(features)
        both = torch.cat((features, marks), 1)
        if stopped is None:
            both = both.detach()
        else:
            both = torch.where(stopped[:, None, None, None], both.detach(), both)
        seen = self.decide(both)
        pooled = (seen.amax((2, 3)), seen.mean((2, 3)), both[:, -1:].amax((2, 3)), both[:, -1:].mean((2, 3)))
        return self.verdict(torch.cat(pooled, 1))[:, 0], marks


class _Far(nn.Conv2d):
    """A convolution in full precision.

    Of a spread kernel that takes each channel by itself, oneDNN's backward pass in bfloat16 reads memory that nobody
    has written: now and then a training got gradients of 1e14, or none that are numbers.
    """

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            return super().forward(features.float())


def _step(inputs: int, outputs: int, *, kernel: int = 3) -> nn.Sequential:
    """A convolution with batch normalisation and ReLU."""
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class Autoencoder(nn.Module):
    """Convolutional autoencoder without skips (Masci et al., ICANN 2011): what it draws has been through the code."""

    def __init__(self):
        super().__init__()
        encoder, decoder = [], []
        for a, b in zip((3, *WIDTHS), WIDTHS):
            encoder += [nn.Conv2d(a, b, 3, stride=2, padding=1), nn.BatchNorm2d(b), nn.ReLU(inplace=True)]
        for a, b in zip(WIDTHS[::-1], (*WIDTHS[-2::-1], 3)):
            double = nn.ConvTranspose2d(a, b, 3, stride=2, padding=1, output_padding=1)
            decoder += [double, nn.BatchNorm2d(b), nn.ReLU(inplace=True)]
        self.encoder = nn.Sequential(*encoder)
        self.decoder = nn.Sequential(*decoder[:-2])  # colours are neither normalised nor kept over 0

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) float of any range, H and W multiples of 16 -> the same, not clamped."""
        return self.decoder(self.encoder(images))


class VariationalAutoencoder(Autoencoder):
    """Autoencoder whose code is a Gaussian of few dimensions (Kingma and Welling, ICLR 2014).

    Args:
        frame: height and width of the images, multiples of 16: the dense layers know no other size.
        latent: dimensions of the code.
        spread: with the layer that only training needs, to draw codes.
    """

    def __init__(self, *, frame: tuple[int, int], latent: int = 128, spread: bool = True):
        super().__init__()
        self.grid = (WIDTHS[-1], frame[0] // 16, frame[1] // 16)
        self.mean = nn.Linear(math.prod(self.grid), latent)
        self.log_variance = nn.Linear(math.prod(self.grid), latent) if spread else None
        self.expand = nn.Linear(latent, math.prod(self.grid))

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, *frame) float of any range -> the same, decoded from the mean of the code."""
        return self.decode(self.mean(self.encoder(images).flatten(1)))

    def code(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance, (B, latent) each."""
        features = self.encoder(images).flatten(1)
        return self.mean(features), self.log_variance(features).clamp(*LOG_VARIANCE)

    def decode(self, codes: Tensor) -> Tensor:
        """(B, latent) -> (B, 3, *frame)."""
        return self.decoder(self.expand(codes).unflatten(1, self.grid))


class ResponseNorm(GlobalResponseNorm):
    """Global response normalisation of ConvNeXt V2 (Woo et al., CVPR 2023), quicker than timm's on a CPU.

    The same numbers but for rounding: squares are summed, as the norm over two dimensions at once is slow, and scale
    and shortcut are one factor.
    """

    @classmethod
    def of(cls, norm: GlobalResponseNorm) -> ResponseNorm:
        """The same layer, with the same weights."""
        made = cls(len(norm.weight), eps=norm.eps, channels_last=norm.channel_dim == -1)
        made.load_state_dict(norm.state_dict())
        return made

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W), or (B, H, W, C) with channels last -> the same shape."""
        # A channel of zeros has a length without a slope, and a gradient that is not a number: the floor takes it away.
        length = x.square().sum(self.spatial_dim, keepdim=True).clamp_min(SILENT).sqrt()
        share = length / (length.mean(self.channel_dim, keepdim=True) + self.eps)
        weight, bias = self.weight.view(self.wb_shape), self.bias.view(self.wb_shape)
        return torch.addcmul(bias, x, 1 + weight * share)


class SurfaceNet(nn.Module):
    """Small classifier of surfaces: four convolutions, each halving the picture, their mean, one linear layer.

    Args:
        classes: how many.
    """

    def __init__(self, *, classes: int):
        super().__init__()
        layers = []
        for a, b in zip((3, *WIDTHS), WIDTHS):
            layers += [nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b)]
            layers += [nn.ReLU(inplace=True), nn.MaxPool2d(2)]
        self.trunk = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(WIDTHS[-1], classes))

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) float in [0, 1] -> (B, C, H / 16, W / 16)."""
        return self.trunk((images - 0.5) / 0.25)

    def classify(self, features: Tensor) -> Tensor:
        """(B, C, h, w) -> logits (B, classes)."""
        return self.head(features.mean((2, 3)))

    def forward(self, images: Tensor) -> Tensor:
        return self.classify(self.features(images))


class FineTuned(nn.Module):
    """A feature extractor with a linear layer on the L2-normalised mean of its coarsest features.

    Args:
        trunk: images (B, 3, H, W) in [0, 1] -> feature maps, fine to coarse; channels: of the coarsest.
    """

    def __init__(self, *, trunk: nn.Module, channels: int, classes: int):
        super().__init__()
        self.trunk = trunk
        self.norm = nn.LayerNorm(channels)
        self.head = nn.Linear(channels, classes)

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) float in [0, 1], sides multiples of 32 -> (B, C, H / 32, W / 32)."""
        return self.trunk(images)[-1]

    def classify(self, features: Tensor) -> Tensor:
        """(B, C, h, w) -> logits (B, classes)."""
        pooled = F.normalize(self.norm(features.mean((2, 3))), dim=1)
        return self.head(math.sqrt(pooled.shape[1]) * pooled)  # of unit length, logits would stay too small

    def forward(self, images: Tensor) -> Tensor:
        return self.classify(self.features(images))

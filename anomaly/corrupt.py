"""Simulated defects, painted on good images while an autoencoder trains, and disturbances by lamp and camera.

Every function is vectorised over a batch and takes its randomness from a torch.Generator passed in.
Images are (B, 3, H, W) float in [0, 1]; masks are (B, 1, H, W) float in [0, 1]. Gray images stay gray.

The blend Ia = beta (A*M) + (1-beta) (I*M) + I*(1-M) with Perlin-noise masks M is that of DRAEM (Zavrtanik et al.,
ICCV 2021); cut-and-paste is CutPaste (Li et al., CVPR 2021); scratches, blots, smears and local warps are our own
additions, since metal, plastic and print fail in these ways too.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from anomaly.images import decode_image, encode_jpeg

GRAY = 0.01  # between the channels of a photo: one with less was taken by a camera that sees no colours
VISIBLE = 0.02  # a change of fewer grey levels (of 1.0) is no defect that anybody could be asked to find


def corrupt(images: Tensor, generator: torch.Generator, *, share: float = 0.8) -> tuple[Tensor, Tensor]:
    """Paint one or two simulated defects on a share of the images.

    Args:
        images: (B, 3, H, W) float in [0, 1], good parts.
        generator: source of all randomness.
        share: probability that an image is corrupted at all; the rest teach the network to leave good parts alone.
    Returns:
        The corrupted images, and masks that are 1 where an image was visibly changed.
    """
    out = images.clone()
    painters = (_texture_blend, _cut_paste, _scratch, _blot, _smear, _warp)
    for i in range(len(images)):
        if _uniform(generator) > share:
            continue
        for _ in range(1 + int(_uniform(generator) < 0.3)):
            paint = painters[_integer(generator, len(painters))]
            out[i] = paint(out[i], images, generator)
    out = torch.where(_gray(images), out.mean(1, keepdim=True), out)
    out = out.clamp(0, 1)  # what is clipped away, nobody sees
    masks = ((out - images).abs().amax(1, keepdim=True) > VISIBLE).to(images.dtype)
    return out, masks


def disturb(images: Tensor, generator: torch.Generator) -> Tensor:
    """What lamp and camera do to a part that stays good: light, its colour and its fall-off, blur, noise, compression.

    Args:
        images: (B, 3, H, W) float in [0, 1].
    Returns:
        The images under up to 20% more or less light, 6% of tint, 10% of fall-off to each side, three in ten of them
        blurred by 0.3 to 1.1 pixels, all with noise of up to 0.01; every second one was a JPEG file of quality 50 to
        95, at its own size or down to half of it.
    """
    n, (height, width), gray = len(images), images.shape[2:], _gray(images)
    y, x = _grid(height, width)

    def factor(power: float, channels: int = 1) -> Tensor:
        return power * (2 * torch.rand(n, channels, 1, 1, generator=generator) - 1)

    fall = factor(0.2) * (y - 0.5) + factor(0.2) * (x - 0.5)
    light, tint = factor(0.2), factor(0.06, 3)
    tint = torch.where(gray, tint.mean(1, keepdim=True), tint)
    out = images * (1 + light) * (1 + tint) * (1 + fall)
    for i in range(n):
        if _uniform(generator) < 0.3:
            out[i] = TF.gaussian_blur(out[i], [5, 5], [_uniform(generator, 0.3, 1.1)] * 2)
    noise = 0.01 * torch.rand(n, 1, 1, 1, generator=generator) * torch.randn(out.shape, generator=generator)
    out = (out + torch.where(gray, noise[:, :1], noise)).clamp(0, 1)
    for i in range(0, n, 2):
        out[i] = _recompressed(out[i], _uniform(generator, 0.5, 1.0), int(_uniform(generator, 50, 95)))
    return out


def shade(images: Tensor, generator: torch.Generator) -> Tensor:
    """A shadow over one corner of each image, as lens, hood and lamp make, over all four in turn.

    Args:
        images: (B, 3, H, W) float in [0, 1].
    Returns:
        The images, up to 60% darker in the corner itself and as they were beyond 5 to 30% of the sides from it.
    """
    out = images.clone()
    y, x = _grid(*images.shape[2:])
    for i in range(len(images)):
        away = torch.hypot(y - i % 2, x - i // 2 % 2)
        reach, depth = _uniform(generator, 0.05, 0.3), _uniform(generator, 0, 0.6)
        out[i] *= 1 - depth * (1 - away / reach).clamp_min(0)
    return out


def turn(images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Each image turned about its middle by any angle.

    Args:
        images: (B, 3, H, W) float in [0, 1].
    Returns:
        The turned images, mirrored where the image ended, and (B, H, W) bool, True where it did not.
    """
    n, (height, width) = len(images), images.shape[2:]
    angles = 2 * torch.pi * torch.rand(n, generator=generator)
    wide, nothing = width / height, torch.zeros(n)
    across = torch.stack((angles.cos(), -angles.sin() / wide, nothing), 1)
    down = torch.stack((angles.sin() * wide, angles.cos(), nothing), 1)
    grid = F.affine_grid(torch.stack((across, down), 1), list(images.shape), align_corners=False)
    turned = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    return turned, (grid.abs() <= 1).all(-1)


def _gray(images: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, 1, 1, 1) bool."""
    return (images.amax(1) - images.amin(1)).amax((1, 2))[:, None, None, None] < GRAY


def _recompressed(image: Tensor, scale: float, quality: int) -> Tensor:
    """(3, H, W) as it comes back from a JPEG file of `scale` times its size."""
    small = [max(1, round(side * scale)) for side in image.shape[1:]]
    pixels = (255 * TF.resize(image, small, antialias=True)).round().byte().permute(1, 2, 0).contiguous().numpy()
    seen = torch.from_numpy(decode_image(encode_jpeg(pixels, quality=quality), name="a disturbed photo"))
    return TF.resize(seen.permute(2, 0, 1).float() / 255, list(image.shape[1:]), antialias=True)


def perlin(height: int, width: int, cells: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Gradient noise of unit range, (height, width) float in about [-1, 1] (Perlin, SIGGRAPH 1985).

    Args:
        cells: lattice cells down and across; more cells give finer noise.
    """
    rows, columns = cells
    angle = 2 * math.pi * torch.rand(rows + 1, columns + 1, generator=generator)
    y = torch.linspace(0, rows, height + 1)[:-1]
    x = torch.linspace(0, columns, width + 1)[:-1]
    y0, x0 = y.long(), x.long()
    fy, fx = (y - y0)[:, None], (x - x0)[None]

    def corner(dy: int, dx: int) -> Tensor:
        a = angle[y0 + dy][:, x0 + dx]
        return torch.cos(a) * (fx - dx) + torch.sin(a) * (fy - dy)

    def fade(t: Tensor) -> Tensor:
        return t * t * t * (t * (t * 6 - 15) + 10)

    top = torch.lerp(corner(0, 0), corner(0, 1), fade(fx))
    bottom = torch.lerp(corner(1, 0), corner(1, 1), fade(fx))
    return torch.lerp(top, bottom, fade(fy)) * math.sqrt(2)


def blob_mask(height: int, width: int, generator: torch.Generator) -> Tensor:
    """One irregular soft-edged area, (height, width) float in [0, 1], of 0.1% to about 6% of the image.

    A Perlin field is cut by a disc at a random place, so that the area is local and its rim is ragged.
    """
    y, x = _grid(height, width)
    cy, cx = _uniform(generator, 0.05, 0.95), _uniform(generator, 0.05, 0.95)
    radius = 0.02 * (0.14 / 0.02) ** _uniform(generator)  # log-uniform: small defects are as frequent as large ones
    stretch = 2 ** _uniform(generator, -1.2, 1.2)
    turn = _uniform(generator, 0, math.pi)
    u = (math.cos(turn) * (x - cx) + math.sin(turn) * (y - cy)) * stretch
    v = (-math.sin(turn) * (x - cx) + math.cos(turn) * (y - cy)) / stretch
    cells = 2 ** _integer(generator, 4, 2)
    ragged = perlin(height, width, (cells, cells), generator)
    field = 1 - torch.sqrt(u * u + v * v) / radius + 0.7 * ragged
    edge = _uniform(generator, 0.04, 0.4)
    return (field / edge).clamp(0, 1)


def _texture_blend(image: Tensor, others: Tensor, generator: torch.Generator) -> Tensor:
    """Foreign or shuffled texture through an irregular mask."""
    height, width = image.shape[1:]
    mask = blob_mask(height, width, generator)
    beta = _uniform(generator, 0.25, 1.0)
    texture = _foreign_texture(image, others, generator)
    return beta * mask * texture + (1 - beta) * mask * image + (1 - mask) * image


def _foreign_texture(image: Tensor, others: Tensor, generator: torch.Generator) -> Tensor:
    """Another image, the same one shuffled in tiles, or coloured noise; (3, H, W)."""
    kind = _integer(generator, 3)
    height, width = image.shape[1:]
    if kind == 0:
        other = others[_integer(generator, len(others))]
        shifts = (_integer(generator, height), _integer(generator, width))
        return (other.roll(shifts, (1, 2)).flip(2) * _uniform(generator, 0.5, 1.5)).clamp(0, 1)
    if kind == 1:
        tiles = 8
        t = image.unfold(1, height // tiles, height // tiles).unfold(2, width // tiles, width // tiles)
        order = torch.randperm(tiles * tiles, generator=generator)
        t = t.reshape(3, tiles * tiles, height // tiles, width // tiles)[:, order]
        t = t.reshape(3, tiles, tiles, height // tiles, width // tiles)
        return t.permute(0, 1, 3, 2, 4).reshape(3, height, width)
    cells = 2 ** _integer(generator, 6, 3)
    noise = perlin(height, width, (cells, cells), generator)
    colour = torch.rand(3, 1, 1, generator=generator)
    return (colour + _uniform(generator, 0.05, 0.5) * noise).clamp(0, 1)


def _cut_paste(image: Tensor, others: Tensor, generator: torch.Generator) -> Tensor:
    """A piece of a good part in the wrong place; half of the time turned or of another brightness."""
    height, width = image.shape[1:]
    area = 0.002 * (0.06 / 0.002) ** _uniform(generator)
    ratio = 2 ** _uniform(generator, -2, 2)
    h = max(3, min(height // 2, int(math.sqrt(area * height * width * ratio))))
    w = max(3, min(width // 2, int(math.sqrt(area * height * width / ratio))))
    source = others[_integer(generator, len(others))]
    y0, x0 = _integer(generator, height - h + 1), _integer(generator, width - w + 1)
    patch = source[:, y0 : y0 + h, x0 : x0 + w]
    if _uniform(generator) < 0.5:
        patch = patch.flip(1 + _integer(generator, 2)) * _uniform(generator, 0.7, 1.3)
    y1, x1 = _integer(generator, height - h + 1), _integer(generator, width - w + 1)
    out = image.clone()
    out[:, y1 : y1 + h, x1 : x1 + w] = patch
    return out


def _scratch(image: Tensor, others: Tensor, generator: torch.Generator) -> Tensor:
    """A thin curved line, darker or brighter than its ground, with a faint opposite rim as a groove has."""
    height, width = image.shape[1:]
    y, x = _grid(height, width)
    cy, cx = _uniform(generator, 0.1, 0.9), _uniform(generator, 0.1, 0.9)
    turn = _uniform(generator, 0, math.pi)
    along = math.cos(turn) * (x - cx) + math.sin(turn) * (y - cy)
    across = -math.sin(turn) * (x - cx) + math.cos(turn) * (y - cy)
    bend = _uniform(generator, -3, 3)
    across = across - bend * along**2
    half_length = 0.03 * (0.35 / 0.03) ** _uniform(generator)
    half_width = _uniform(generator, 0.5, 2.5) / max(height, width)
    ends = ((half_length - along.abs()) / 0.01).clamp(0, 1)
    groove = torch.exp(-((across / half_width) ** 2)) * ends
    rim = torch.exp(-(((across - 2 * half_width) / half_width) ** 2)) * ends
    depth = _uniform(generator, 0.12, 0.7) * (1 if _uniform(generator) < 0.5 else -1)
    return image + depth * groove - 0.4 * depth * rim


def _blot(image: Tensor, others: Tensor, generator: torch.Generator) -> Tensor:
    """A stain, shadow or wrong colour: the ground shows through, tinted."""
    mask = blob_mask(*image.shape[1:], generator)
    tint = 1 + _uniform(generator, -0.6, 0.6) + 0.25 * (torch.rand(3, 1, 1, generator=generator) - 0.5)
    lift = _uniform(generator, -0.15, 0.15)
    return image * (1 - mask) + mask * (image * tint + lift)


def _smear(image: Tensor, others: Tensor, generator: torch.Generator) -> Tensor:
    """Detail lost: a place that is filled with its own blurred surroundings, as where a feature is missing."""
    mask = blob_mask(*image.shape[1:], generator)
    kernel = 2 * _integer(generator, 13, 4) + 1
    blurred = F.avg_pool2d(image[None], kernel, 1, kernel // 2, count_include_pad=False)[0]
    shift = (_integer(generator, 33) - 16, _integer(generator, 33) - 16)
    return image * (1 - mask) + mask * blurred.roll(shift, (1, 2))


def _warp(image: Tensor, others: Tensor, generator: torch.Generator) -> Tensor:
    """A local dent or bend: the pixels around a place are displaced, most at its centre."""
    height, width = image.shape[1:]
    y, x = _grid(height, width)
    cy, cx = _uniform(generator, 0.1, 0.9), _uniform(generator, 0.1, 0.9)
    radius = _uniform(generator, 0.04, 0.16)
    pull = torch.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * (radius / 2) ** 2))
    turn = _uniform(generator, 0, 2 * math.pi)
    reach = radius * _uniform(generator, 0.3, 0.9)
    grid = torch.stack((x - pull * reach * math.cos(turn), y - pull * reach * math.sin(turn)), -1) * 2 - 1
    return F.grid_sample(image[None], grid[None], padding_mode="reflection", align_corners=False)[0]


def _grid(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Pixel centres in units of the image's sides: y (H, 1) broadcast to (H, W), x likewise, in (0, 1)."""
    y = (torch.arange(height) + 0.5) / height
    x = (torch.arange(width) + 0.5) / width
    return y[:, None].expand(height, width), x[None].expand(height, width)


def _uniform(generator: torch.Generator, low: float = 0.0, high: float = 1.0) -> float:
    return low + (high - low) * torch.rand((), generator=generator).item()


def _integer(generator: torch.Generator, high: int, low: int = 0) -> int:
    return int(torch.randint(low, high, (), generator=generator))

"""From a surface to a photo: studio lighting, shadows, lens and sensor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from scipy.ndimage import gaussian_filter, uniform_filter

from anomaly.synthetic.surface import Surface, smoothstep


@dataclass(frozen=True)
class Light:
    """A softbox over the part and a bright room around it. Angles in radians, strengths relative to daylight 1."""

    azimuth: float
    elevation: float
    key: float
    fill: float
    falloff: float
    warmth: float
    panel: float  # how far towards the lamp a mirror must lean to show it: 0 is face on

    @classmethod
    def drawn(cls, rng: Generator) -> Light:
        return cls(
            azimuth=rng.uniform(-0.85, -0.15) * np.pi,  # from above in the picture: light from below reads inside out
            elevation=rng.uniform(0.75, 1.1),
            key=rng.uniform(0.75, 1.15),
            fill=rng.uniform(0.32, 0.5),
            falloff=rng.uniform(0.15, 0.6),
            warmth=rng.uniform(-0.04, 0.05),
            panel=rng.uniform(0.36, 0.66),
        )

    @property
    def across(self) -> tuple[float, float]:
        return float(np.cos(self.azimuth)), float(np.sin(self.azimuth))


@dataclass(frozen=True)
class Camera:
    """Lens and sensor. Lengths in image widths; noise as a share of white."""

    exposure: float
    balance: tuple[float, float, float]
    vignette: float
    blur: float
    focus_tilt: tuple[float, float]
    noise: float

    @classmethod
    def drawn(cls, rng: Generator) -> Camera:
        red, blue = rng.normal(1, 0.014, 2)
        turn, amount = rng.uniform(0, 2 * np.pi), rng.uniform(0, 1)
        return cls(
            exposure=float(np.exp(rng.normal(0, 0.16))),
            balance=(float(red), 1.0, float(blue)),
            vignette=rng.uniform(0.12, 0.35),
            blur=rng.uniform(0.0012, 0.0024),
            focus_tilt=(float(amount * np.cos(turn)), float(amount * np.sin(turn))),
            noise=rng.uniform(0.006, 0.014),
        )


def shade(surface: Surface, light: Light) -> np.ndarray:
    """Linear radiance (h, w, 3) float32 of a lit surface."""
    slopes = _slopes(surface.height, surface.px)
    open_sky = _ambient_occlusion(surface)
    lit = _cast_shadow(surface, light)
    near = _falloff(surface, light)
    rise, run = float(np.sin(light.elevation)), float(np.cos(light.elevation))
    cx, cy = light.across
    facing = (rise - run * (slopes[0] * cx + slopes[1] * cy)) / np.sqrt(1 + slopes[0] ** 2 + slopes[1] ** 2)
    diffuse = light.key * np.maximum(facing, 0) * lit * near + light.fill * open_sky
    mirrored = _studio(surface, slopes, surface.rough, light) * (0.35 + 0.65 * lit) * open_sky * near
    sheen = 0.05 * (1 - surface.rough)  # what any dielectric reflects
    own = surface.albedo * (diffuse * (1 - surface.metal) + mirrored * surface.metal)[..., None]
    return (own + (sheen * mirrored * (1 - surface.metal) + _coat(surface, light))[..., None]) * _tone(light)


def photograph(surface: Surface, light: Light, camera: Camera, size: int) -> np.ndarray:
    """The noiseless photo (size, size, 3) float32, display values 0..1, of a surface drawn as fine or finer."""
    fine = shade(surface, light)
    factor = len(fine) // size
    radiance = fine.reshape(size, factor, size, factor, 3).mean(axis=(1, 3)) if factor > 1 else fine
    x = ((np.arange(size, dtype=np.float32) + 0.5) / size - 0.5)[None, :]
    y = x.T
    corner = camera.exposure * (1 - camera.vignette * 2 * (x * x + y * y))
    radiance *= corner[..., None] * np.asarray(camera.balance, np.float32)
    return _display(_lens(radiance, x, y, camera))


def expose(photo: np.ndarray, camera: Camera, rng: Generator) -> np.ndarray:
    """The photo as the sensor delivers it, (h, w, 3) uint8: shot noise, a little of it shared by neighbours."""
    height, width = photo.shape[:2]
    grain = rng.standard_normal((height, width, 3), np.float32)
    grain = 0.75 * grain + 0.6 * grain.mean(axis=2, keepdims=True)
    noisy = photo + camera.noise * (0.45 + 0.9 * np.sqrt(photo)) * grain
    return (np.clip(noisy, 0, 1) * 255 + 0.5).astype(np.uint8)


def _slopes(height: np.ndarray, px: float) -> tuple[np.ndarray, np.ndarray]:
    """dz/dx and dz/dy of a relief."""
    down, across = np.gradient(height, px)
    return across, down


def _tone(light: Light) -> np.ndarray:
    return np.array([1 + light.warmth, 1, 1 - light.warmth], np.float32)


def _falloff(surface: Surface, light: Light) -> np.ndarray:
    """A lamp at finite distance: the side towards it is brighter."""
    cx, cy = light.across
    return 1 + light.falloff * ((surface.x - 0.5) * cx + (surface.y - 0.5) * cy)


def _ambient_occlusion(surface: Surface) -> np.ndarray:
    """How much of the room a pixel sees: less where the neighbourhood, on two scales, lies higher than it does."""
    seen = np.ones_like(surface.height)
    for reach, weight in ((0.008, 0.55), (0.03, 0.45)):
        deeper = _blurred(surface.height, reach / surface.px) - surface.height
        seen -= weight * np.clip(deeper / reach, 0, 1)
    return np.clip(seen, 0.12, 1)


def _blurred(image: np.ndarray, radius: float) -> np.ndarray:
    """Three box blurs, on every second pixel: nearly a Gaussian of deviation `radius` pixels at a fixed cost."""
    coarse = image[::2, ::2]
    width = max(round(radius), 1) | 1
    for _ in range(3):
        coarse = uniform_filter(coarse, width, mode="nearest")
    return coarse.repeat(2, axis=0).repeat(2, axis=1)[: image.shape[0], : image.shape[1]]


def _cast_shadow(surface: Surface, light: Light) -> np.ndarray:
    """1 lit .. 0.1 in shadow: march over the relief towards the lamp; the penumbra widens with distance."""
    size = surface.height.shape[0]
    reach = max(int(0.09 * size), 2)
    padded = np.pad(surface.height, reach, mode="edge")
    lit = np.ones_like(surface.height)
    climb = float(np.tan(light.elevation))
    for step in np.unique(np.geomspace(1, reach, 11).round()):
        dx, dy = (round(step * part) + reach for part in light.across)
        blocker = padded[dy : dy + size, dx : dx + size] - surface.height
        distance = step * surface.px
        lit = np.minimum(lit, 1 - (blocker - distance * climb) / (0.004 + 0.45 * distance))
    return np.clip(lit, 0.1, 1)


def _studio(surface: Surface, slopes: tuple, rough: np.ndarray | float, light: Light, room: float = 1.0) -> np.ndarray:
    """What the surface mirrors: a rectangular softbox on the lamp's side, a weaker one opposite, a graded `room`."""
    bend = 2 / (1 + slopes[0] ** 2 + slopes[1] ** 2)
    rx = -slopes[0] * bend + 0.35 * (surface.x - 0.5)  # reflection of a camera that is near enough to see perspective
    ry = -slopes[1] * bend + 0.35 * (surface.y - 0.5)
    cx, cy = light.across
    towards, sideways = rx * cx + ry * cy, ry * cx - rx * cy
    blur = 0.05 + 0.75 * rough * rough
    panel = _window(towards - light.panel, 0.3, blur) * _window(sideways, 0.55, blur)
    opposite = _window(towards + 0.85, 0.16, blur) * _window(sideways, 0.8, blur)
    walls = room * (0.42 + 0.28 * np.tanh(1.2 * towards))
    return light.fill / 0.4 * walls + light.key * (2.1 * panel + 0.5 * opposite)


def _window(offset: np.ndarray, half: float, blur: np.ndarray) -> np.ndarray:
    """A strip of light of half-width `half` seen through a blur: 1 inside, 0 outside, wider and weaker when rough."""
    return 0.5 * (np.tanh((half + offset) / blur) + np.tanh((half - offset) / blur))


def _coat(surface: Surface, light: Light) -> np.ndarray:
    """Reflection of the clear coat: only its highlights and, on steep sides, the room (Schlick)."""
    if not surface.coat.any():
        return np.zeros_like(surface.coat)
    relief = surface.height + surface.shelled * (surface.shell - surface.height)
    slopes = _slopes(relief, surface.px)
    steep = 1 - 1 / np.sqrt(1 + slopes[0] ** 2 + slopes[1] ** 2)
    fresnel = 0.045 + 0.9 * steep**3
    return surface.coat * fresnel * 3.6 * _studio(surface, slopes, 0.1, light, room=0.35)


def _lens(radiance: np.ndarray, x: np.ndarray, y: np.ndarray, camera: Camera) -> np.ndarray:
    """Slight blur that grows away from the plane of focus; x, y are measured from the picture's centre."""
    sharp = camera.blur * len(radiance)
    near = gaussian_filter(radiance, (sharp, sharp, 0), mode="nearest")
    far = gaussian_filter(radiance, (2.1 * sharp, 2.1 * sharp, 0), mode="nearest")
    tilt_x, tilt_y = camera.focus_tilt
    away = np.abs(x * tilt_x + y * tilt_y)
    return near + smoothstep(0.15, 0.6, away)[..., None] * (far - near)


def _display(radiance: np.ndarray) -> np.ndarray:
    """A camera's tone curve: linear in the dark, a soft shoulder, then the sRGB encoding. Values 0..1."""
    shoulder = 0.72
    over = np.maximum(radiance - shoulder, 0)
    toned = np.minimum(radiance, shoulder) + (1 - shoulder) * (1 - np.exp(-over / (1 - shoulder)))
    toned = np.clip(toned, 0, 1)
    return np.where(toned <= 0.0031308, 12.92 * toned, 1.055 * toned ** (1 / 2.4) - 0.055).astype(np.float32)

"""Augmentation of whole batches of uint8 [B,H,W,C], on whatever device they are.

Every function takes `dice` [B,8], uniform numbers in [0,1), a row an item: a function of (seed, epoch, item), so that
what happened can happen again.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor
from torch.nn import functional

Transform = Callable[[Tensor, Tensor], Tensor]  # (uint8 [B,H,W,C], dice [B,8]) → the same shape


def flip(pixels: Tensor, dice: Tensor) -> Tensor:
    """Mirror left to right with probability one half."""
    chosen = dice[:, 0] < 0.5
    if pixels.device.type != "cpu":
        return torch.where(chosen[:, None, None, None], pixels.flip(2), pixels)
    given = pixels.numpy()
    mirrored = np.empty_like(given)
    for row, turn in enumerate(chosen.tolist()):
        mirrored[row] = given[row, :, ::-1] if turn else given[row]
    return torch.from_numpy(mirrored)


def shift(pixels: Tensor, dice: Tensor, *, by: int, mode: str = "constant") -> Tensor:
    """Move by up to `by` pixels each way; the border is black (`constant`) or mirrored (`reflect`)."""
    if by == 0:
        return pixels
    side = pixels.shape[1]
    steps = (dice[:, 1:3] * (2 * by + 1)).long()
    if pixels.device.type == "cpu":  # copies of windows: ten times as fast as picking pixels one by one
        border = ((0, 0), (by, by), (by, by), (0, 0))
        framed = np.pad(pixels.numpy(), border, mode="reflect" if mode == "reflect" else "constant")
        moved = np.empty(tuple(pixels.shape), dtype=np.uint8)
        for row, (top, left) in enumerate(steps.tolist()):
            moved[row] = framed[row, top : top + side, left : left + side]
        return torch.from_numpy(moved)
    if mode == "reflect":
        index = torch.arange(-by, side + by, device=pixels.device).abs()
        index = torch.where(index >= side, 2 * (side - 1) - index, index)
        padded = pixels[:, index][:, :, index]
    else:
        padded = functional.pad(pixels, (0, 0, by, by, by, by))
    span = torch.arange(side, device=pixels.device)
    rows, columns = steps[:, :1] + span, steps[:, 1:] + span
    items = torch.arange(len(pixels), device=pixels.device)
    return padded[items[:, None, None], rows[:, :, None], columns[:, None, :]]


def zoom(pixels: Tensor, dice: Tensor, *, size: int, smallest: float) -> Tensor:
    """A random square or slightly oblong window of at least `smallest` of the area, resized to `size` x `size`.

    After Szegedy et al. (2015); the aspect ratio is drawn from [3/4, 4/3]. On a CPU by OpenCV, a picture a thread;
    elsewhere the whole batch at once.
    """
    side = pixels.shape[1]
    area = smallest + (1 - smallest) * dice[:, 3]
    aspect = torch.exp((dice[:, 4] - 0.5) * 2 * 0.2877)
    height = (side * (area / aspect).sqrt()).clamp(8, side).round().long()
    width = (side * (area * aspect).sqrt()).clamp(8, side).round().long()
    top = (dice[:, 1] * (side - height + 1)).long()
    left = (dice[:, 2] * (side - width + 1)).long()
    if pixels.device.type == "cpu":
        windows = torch.stack([top, left, height, width], dim=1).tolist()
        return torch.from_numpy(_resized(pixels.numpy(), windows, size))
    return windowed(pixels, top, left, height, width, size)


def windowed(pixels: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor, size: int) -> Tensor:
    """A window of each picture (int64 [B] each), bilinear and smoothed, as `size` x `size`: all of them at once, by two
    products with the shares [B,size,side] that the rows and columns of a picture have in those of the result."""
    count, side, _, channels = pixels.shape
    down, across = _shares(top, height, side, size), _shares(left, width, side, size)
    rows = (down @ pixels.float().reshape(count, side, side * channels)).reshape(count, size, side, channels)
    seen = across[:, None] @ rows
    return seen.round().clamp(0, 255).to(torch.uint8)


def _shares(start: Tensor, length: Tensor, side: int, size: int) -> Tensor:
    """The share of each of `side` pixels in each of `size`, which show `length` of them from `start` on: a triangle
    about the middle of the new pixel, as wide as that is, but no less than a pixel."""
    scale = (length.float() / size)[:, None, None]
    middle = (torch.arange(size, device=start.device) + 0.5)[:, None] * scale
    place = (torch.arange(side, device=start.device) - start[:, None] + 0.5)[:, None]
    share = (1 - (place - middle).abs() / scale.clamp_min(1)).clamp_min(0)
    share = share * ((place > 0) & (place < length[:, None, None]))
    return share / share.sum(dim=2, keepdim=True)


def _resized(pixels: NDArray[np.uint8], windows: list[list[int]], size: int) -> NDArray[np.uint8]:
    import cv2

    cv2.setNumThreads(0)  # batches are what runs side by side; threads within one picture would only wait
    out = np.empty((len(pixels), size, size, pixels.shape[3]), dtype=np.uint8)
    for row, (y, x, h, w) in enumerate(windows):
        seen = cv2.resize(pixels[row, y : y + h, x : x + w], (size, size), interpolation=cv2.INTER_LINEAR)
        out[row] = seen if seen.ndim == 3 else seen[..., None]
    return out


def colour(pixels: Tensor, dice: Tensor, *, by: float = 0.3) -> Tensor:
    """Brightness, contrast and saturation changed by factors from [1 - by, 1 + by] (Krizhevsky et al., 2012)."""
    light, contrast, saturation = (1 + by * (2 * dice[:, column, None, None, None] - 1) for column in (3, 5, 6))
    x = pixels.float() * light
    x = (x - x.mean(dim=(1, 2, 3), keepdim=True)) * contrast + x.mean(dim=(1, 2, 3), keepdim=True)
    if pixels.shape[3] == 3:
        grey = x @ torch.tensor([0.299, 0.587, 0.114], device=x.device)
        x = (x - grey[..., None]) * saturation + grey[..., None]
    return x.round().clamp(0, 255).to(torch.uint8)


def cutout(pixels: Tensor, dice: Tensor, *, side: float = 0.25) -> Tensor:
    """A square of `side` of the picture's side painted grey, anywhere, also half outside (DeVries & Taylor, 2017)."""
    count, height, width = pixels.shape[:3]
    half = max(1, round(side * height / 2))
    y, x = (dice[:, 5] * height).long(), (dice[:, 6] * width).long()
    rows = torch.arange(height, device=pixels.device)
    columns = torch.arange(width, device=pixels.device)
    inside = ((rows[None, :, None] - y[:, None, None]).abs() < half) & (
        (columns[None, None, :] - x[:, None, None]).abs() < half
    )
    return torch.where(inside[..., None], torch.full_like(pixels[:count], 128), pixels)


def trivial(pixels: Tensor, dice: Tensor) -> Tensor:
    """One operation of one strength an item, both drawn alike from all (TrivialAugment, Müller & Hutter, 2021): as it
    is, lighter or darker, contrast, colours, sharpness, posterised, solarised, inverted edges of the histogram, turned,
    sheared, moved."""
    given, dice = pixels.cpu().numpy(), dice.cpu()  # Pillow knows no other place
    kinds = (dice[:, 5] * len(_OPERATIONS)).long().tolist()
    strengths = (2 * dice[:, 6] - 1).tolist()
    out = np.empty_like(given)
    for row, (kind, strength) in enumerate(zip(kinds, strengths, strict=True)):
        changed = np.asarray(_OPERATIONS[kind](Image.fromarray(given[row].squeeze()), strength))
        out[row] = changed.reshape(given[row].shape)
    return torch.from_numpy(out).to(pixels.device)


def _moved(picture: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    return picture.transform(picture.size, Image.Transform.AFFINE, matrix, resample=Image.Resampling.BILINEAR)


_OPERATIONS: tuple[Callable[[Image.Image, float], Image.Image], ...] = (
    lambda picture, s: picture,
    lambda picture, s: ImageEnhance.Brightness(picture).enhance(1 + 0.9 * s),
    lambda picture, s: ImageEnhance.Contrast(picture).enhance(1 + 0.9 * s),
    lambda picture, s: ImageEnhance.Color(picture).enhance(1 + 0.9 * s),
    lambda picture, s: ImageEnhance.Sharpness(picture).enhance(1 + 0.9 * s),
    lambda picture, s: ImageOps.posterize(picture, 8 - round(6 * abs(s))),
    lambda picture, s: ImageOps.solarize(picture, round(255 * (1 - abs(s)))),
    lambda picture, s: ImageOps.autocontrast(picture),
    lambda picture, s: ImageOps.equalize(picture),
    lambda picture, s: picture.rotate(135 * s, resample=Image.Resampling.BILINEAR),
    lambda picture, s: _moved(picture, (1, 0.99 * s, 0, 0, 1, 0)),
    lambda picture, s: _moved(picture, (1, 0, 0, 0.99 * s, 1, 0)),
    lambda picture, s: _moved(picture, (1, 0, 32 * s, 0, 1, 0)),
    lambda picture, s: _moved(picture, (1, 0, 0, 0, 1, 32 * s)),
)


def mix(
    x: Tensor, y: Tensor, *, classes: int, alpha: float, seed: int, step: int, cut: bool = False
) -> tuple[Tensor, Tensor]:
    """Each item with a share of another of its batch: blended (mixup, Zhang et al., 2018) or, with `cut`, a window of
    it (CutMix, Yun et al., 2019). x float32 [B,C,H,W], y int64 [B] → x, y float32 [B,classes]. The share is drawn
    from Beta(alpha, alpha) by (seed, step)."""
    random = np.random.default_rng([seed, step])
    share = float(random.beta(alpha, alpha))
    other = torch.from_numpy(random.permutation(len(x))).to(x.device)
    if cut:
        height, width = x.shape[2:]
        h, w = round(height * (1 - share) ** 0.5), round(width * (1 - share) ** 0.5)
        top, left = int(random.integers(0, height - h + 1)), int(random.integers(0, width - w + 1))
        x = x.clone()
        x[:, :, top : top + h, left : left + w] = x[other, :, top : top + h, left : left + w]
        share = 1 - h * w / (height * width)
    else:
        x = share * x + (1 - share) * x[other]
    target = functional.one_hot(y, classes).float()
    return x, share * target + (1 - share) * target[other]


def chain(*transforms: Transform) -> Transform:
    """One transform after another, all from the same row of dice."""

    def run(pixels: Tensor, dice: Tensor) -> Tensor:
        for transform in transforms:
            pixels = transform(pixels, dice)
        return pixels

    return run

"""Pretrained models and their data, as the benchmarks use them: name, samples to calibrate on, samples to evaluate, labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Samples = list[dict[str, Array]]


@attrs.frozen(eq=False)
class Case:
    model: Path
    calibration: Samples
    evaluation: Samples
    labels: Array | None = None
    symbols: dict[str, int] = attrs.field(factory=dict)


def case(name: str, zoo: Path) -> Case:
    """The model called ``name`` in the folder ``zoo``, with its preprocessing."""
    makers = {
        "ultraface_rfb_320": _ultraface,
        "yunet_n_320": _yunet,
        "fastestdet": _fastestdet,
        "super_resolution_x3": _super_resolution,
    }
    calibration, evaluation, labels = makers.get(name, _cifar)(zoo)
    symbols = {"height": 120, "width": 160} if name == "super_resolution_x3" else {}
    return Case(zoo / f"{name}.onnx", calibration, evaluation, labels, symbols)


def _images(path: Path, key: str = "images") -> Array:
    with np.load(path) as archive:
        return np.asarray(archive[key])


def _nchw(images: Array) -> Array:
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def _named(name: str, images: Array) -> Samples:
    return [{name: image[None]} for image in images]


def _ultraface(zoo: Path) -> tuple[Samples, Samples, None]:
    parts = [_nchw((_images(zoo / f"ultraface_{part}64.npz").astype(np.float32) - 127) / 128) for part in ("calib", "test")]
    return _named("input", parts[0]), _named("input", parts[1]), None


def _yunet(zoo: Path) -> tuple[Samples, Samples, None]:
    images = _images(zoo / "imagenet_samples_320x240.npz")[..., ::-1].astype(np.float32)
    canvas = np.zeros((len(images), 320, 320, 3), np.float32)
    canvas[:, :240] = images
    samples = _named("input", _nchw(canvas))
    return samples[::2], samples[1::2], None


def _super_resolution(zoo: Path) -> tuple[Samples, Samples, None]:
    images = _images(zoo / "imagenet_samples_320x240.npz").astype(np.float32)
    luma = (images @ np.array([0.299, 0.587, 0.114], np.float32))[..., None] / 255
    samples = _named("input", _nchw(_resized(luma, 120, 160)))
    return samples[::2], samples[1::2], None


def _fastestdet(zoo: Path) -> tuple[Samples, Samples, None]:
    images = _images(zoo / "imagenet_samples_320x240.npz")[..., ::-1].astype(np.float32) / 255
    samples = _named("input.1", _nchw(_resized(images, 352, 352)))
    return samples[::2], samples[1::2], None


def _resized(images: Array, height: int, width: int) -> Array:
    """Bilinear resize with half-pixel centres."""

    def axis(old: int, new: int) -> tuple[Array, Array, Array]:
        at = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        low = np.floor(at).astype(int)
        return low, np.minimum(low + 1, old - 1), (at - low).astype(np.float32)

    top, bottom, dy = axis(images.shape[1], height)
    left, right, dx = axis(images.shape[2], width)
    rows = images[:, top] * (1 - dy)[:, None, None] + images[:, bottom] * dy[:, None, None]
    return np.asarray(rows[:, :, left] * (1 - dx)[:, None] + rows[:, :, right] * dx[:, None])


def _cifar(zoo: Path) -> tuple[Samples, Samples, Array]:
    with np.load(zoo / "cifar10_calib.npz") as calib, np.load(zoo / "cifar10_eval.npz") as evaluation:

        def prepared(archive: Any) -> Array:
            return _nchw(((archive["images"] / 255 - calib["mean"]) / calib["std"]).astype(np.float32))

        images = prepared(evaluation)
        batches = [{"input": images[start : start + 50]} for start in range(0, len(images), 50)]
        return _named("input", prepared(calib)), batches, evaluation["labels"]

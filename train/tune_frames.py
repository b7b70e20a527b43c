"""Settings on whole frames, as detectors see them: bytes at equal answers. A part of `python -m train.tune`."""

from __future__ import annotations

import argparse
import json
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

import rjpeg
from rjpeg._codec import coding_size_of
from rjpeg.errors import InputError
from train.curves import Points, ratio_and_error
from train.detectors import Detector, boxes_of, divergence, shared_boxes
from train.photos import held_back_photos, read_photo
from train.settings import Setting

__all__ = ["tune_frames"]

LINE = "{setting:44s} bytes at equal F1 {f1:.3f} +- {f1_error:.3f}, at equal divergence {kl:.3f} +- {kl_error:.3f}"
POINT = "    {bpp:.3f} bpp, quality {quality:5.1f}: {judges}"
PROBED = 8
"""Frames by which the qualities for the rates are found."""
PROBES = (6, 12, 22, 40, 65, 88)
"""Qualities that are tried on them."""


class Curve(NamedTuple):
    """What detectors say of a setting. bpp: (points, frames).

    shared: (points, frames, 2 * detectors), boxes that both answers have and boxes of both, of each detector.
    nats: (points, frames, detectors), the divergence of the answers.
    """

    qualities: list[float]
    bpp: NDArray[np.float64]
    shared: NDArray[np.float64]
    nats: NDArray[np.float64]


class Jury:
    """Detectors, and their answers on clean frames."""

    def __init__(self, detectors: list[Detector], frames: list[NDArray[np.uint8]]) -> None:
        self._detectors, self._frames = detectors, frames
        self._clean = [[detector.ask(frame) for detector in detectors] for frame in tqdm(frames, "clean", leave=False)]
        self._boxes = [[boxes_of(answer) for answer in answers] for answers in self._clean]

    def judge(self, setting: Setting, rates: list[float]) -> Curve:
        """Code all frames at those qualities that give these mean rates on some of them, and ask about them."""
        encoder = rjpeg.Encoder(setting.model, refine=setting.refine)
        decoder = rjpeg.Decoder(setting.model, restore=setting.restore)
        qualities = _qualities_for(encoder, setting, self._frames, rates)
        curve = Curve(
            qualities,
            np.empty((len(qualities), len(self._frames))),
            np.empty((len(qualities), len(self._frames), 2 * len(self._detectors))),
            np.empty((len(qualities), len(self._frames), len(self._detectors))),
        )
        bar = tqdm(self._frames, setting.name or "as it is", leave=False)
        for number, frame in enumerate(bar):
            for point, quality in enumerate(qualities):
                jpeg = _encoded(encoder, setting, frame, quality)
                curve.bpp[point, number] = _bpp(frame, jpeg)
                seen = decoder.decode(jpeg)
                for at, detector in enumerate(self._detectors):
                    answer = detector.ask(seen)
                    hits = shared_boxes(self._boxes[number][at], boxes_of(answer))
                    curve.shared[point, number, 2 * at : 2 * at + 2] = sum(hits), len(hits)
                    curve.nats[point, number, at] = divergence(self._clean[number][at], answer)
        return curve


def _encoded(encoder: rjpeg.Encoder, setting: Setting, frame: NDArray[np.uint8], quality: float) -> bytes:
    size = None if setting.size is None else coding_size_of((frame.shape[0], frame.shape[1]), setting.size)
    return encoder.encode(frame, quality, coding_size=size)


def _bpp(frame: NDArray[np.uint8], jpeg: bytes) -> float:
    return 8 * len(jpeg) / (frame.shape[0] * frame.shape[1])


def _qualities_for(
    encoder: rjpeg.Encoder, setting: Setting, frames: list[NDArray[np.uint8]], rates: list[float]
) -> list[float]:
    """Return the qualities that give these mean rates, in bpp, on a few frames."""
    few = frames[:: max(1, len(frames) // PROBED)]
    bpp = [np.mean([_bpp(frame, _encoded(encoder, setting, frame, quality)) for frame in few]) for quality in PROBES]
    return [float(quality) for quality in np.exp(np.interp(np.log(rates), np.log(bpp), np.log(PROBES)))]


def middle(frame: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Cut out a frame's middle square of up to `side` pixels.

    At 416, detectors of 416x416 see it at its native scale. Reduced whole frames would speak for small coding sizes.
    """
    side = min(side, *frame.shape[:2])
    top, left = ((length - side) // 2 for length in frame.shape[:2])
    return np.ascontiguousarray(frame[top : top + side, left : left + side])


def f1_of(sums: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the F1 score, the mean over detectors, of (points, 2 * detectors) shared boxes and boxes in turn."""
    return (sums[:, ::2] / np.maximum(sums[:, 1::2], 1)).mean(1)


def likeness_of(sums: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return what rises as divergences (points, detectors) fall: their negative logarithm, the mean over detectors."""
    return -np.log(np.maximum(sums, 1e-9)).mean(1)


def tune_frames(args: argparse.Namespace, settings: list[Setting], held_back: float) -> None:
    """Code frames with every setting, ask the detectors, and print. Raises InputError, ModelError."""
    names = held_back_photos(args.data, held_back)
    names = names[:: max(1, len(names) // args.photos)][: args.photos]
    if not names:
        raise InputError(f"data folder {args.data}: no photo of it is held back")
    frames = [middle(read_photo(args.data / name)[..., ::-1], args.side) for name in names]
    jury = Jury([Detector(path) for path in args.detectors], frames)
    first: Curve | None = None
    for setting in settings:
        curve = jury.judge(setting, args.rates)
        first = first or curve
        result = _figures(setting, curve, first)
        print(json.dumps(result) if args.json else _text(result), flush=True)


def _figures(setting: Setting, curve: Curve, first: Curve) -> dict[str, Any]:
    """Return what is printed of a curve beside the first setting's."""
    f1, f1_error = ratio_and_error(_points(curve, "shared"), _points(first, "shared"), f1_of)
    kl, kl_error = ratio_and_error(_points(curve, "nats"), _points(first, "nats"), likeness_of)
    shared = curve.shared.sum(1)
    return {
        "setting": setting.name or "as it is",
        "frames": curve.bpp.shape[1],
        "f1": f1,
        "f1_error": f1_error,
        "kl": kl,
        "kl_error": kl_error,
        "points": [
            {
                "quality": quality,
                "bpp": float(curve.bpp[point].mean()),
                "f1": (shared[point, ::2] / np.maximum(shared[point, 1::2], 1)).tolist(),
                "kl": curve.nats[point].mean(0).tolist(),
            }
            for point, quality in enumerate(curve.qualities)
        ],
    }


def _points(curve: Curve, figure: str) -> Points:
    return curve.bpp, getattr(curve, figure)


def _text(result: dict[str, Any]) -> str:
    lines = [LINE.format(**result)]
    for point in result["points"]:
        judges = ", ".join(f"F1 {100 * f1:.1f} KL {kl:.2f}" for f1, kl in zip(point["f1"], point["kl"], strict=True))
        lines.append(POINT.format(**point, judges=judges))
    return "\n".join(lines)

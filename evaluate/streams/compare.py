"""Codecs on one clip: their curves around the F1 of the reference, which is a plain JPEG of one quality."""

from collections.abc import Sequence

from tqdm import tqdm

from evaluate.streams.codecs import Pictures, StreamCodec
from evaluate.streams.curves import Curves
from evaluate.streams.measure import Bench, Point

__all__ = ["QUALITY", "REFERENCE", "compare", "reference_of"]

REFERENCE, QUALITY = "libjpeg-turbo", 30


def reference_of(bench: Bench) -> Point:
    """Return the point whose F1 all codecs are compared at. Raises RjpegError."""
    return bench.point(Pictures(REFERENCE), QUALITY)


def compare(bench: Bench, codecs: Sequence[StreamCodec], settings: Sequence[float] | None = None) -> Curves:
    """Measure codecs at some settings; without them, at as many of their own as it takes. Raises RjpegError."""
    reference = reference_of(bench)
    around = [reference, *bench.curve(Pictures(REFERENCE), f1=reference.f1)]
    f1 = Curves(around, reference, bench.clip.pixels).f1
    points = {(point.codec, point.setting): point for point in around}
    for codec in tqdm(codecs, bench.clip.name, unit="codec", leave=False, disable=None):
        points.update(((point.codec, point.setting), point) for point in bench.curve(codec, settings, f1))
    return Curves(list(points.values()), reference, bench.clip.pixels)

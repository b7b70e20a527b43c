"""The console script `rjpeg`: encode, decode, inspect and map, for pictures on disk."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from rjpeg import __version__
from rjpeg import _maps as maps
from rjpeg._arguments import path_text, run_program
from rjpeg._files import PICTURE_SUFFIXES, distinct_stems, list_pictures, read_whole, write_whole
from rjpeg._films import frames_of
from rjpeg._inspection import inspect
from rjpeg._keys import KeyFinder
from rjpeg._pictures import decode_picture
from rjpeg.decoder import MAX_PIXELS, Decoder, identify
from rjpeg.encoder import EncodedFrame, Encoder
from rjpeg.errors import InputError, JpegError, KeyMissingError, MarkerError, RjpegError, StorageError
from rjpeg.stream import StreamEncoder

__all__ = ["build_parser", "main"]

logger = logging.getLogger("rjpeg")

STANDARD_STREAM = "-"
JPEG_SUFFIXES = (".jpeg", ".jpg")
PLAIN_VIEWS = ("tiles", "soft")

_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 1 an error that is printed, 2 wrong usage."""
    return run_program(lambda: _run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    args = build_parser().parse_args(arguments)
    logging.basicConfig(format="%(message)s", stream=sys.stderr, level=args.log_level.upper())
    try:
        run: Callable[[argparse.Namespace], None] = args.run
        run(args)
    except RjpegError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Build the parser, with one command each for encode, decode, inspect and map."""
    parser = argparse.ArgumentParser(
        "rjpeg", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="encode | decode | inspect | map")
    for add in (_add_encode, _add_decode, _add_inspect, _add_map):
        add(commands)
    return parser


def _add_command(
    commands: _Commands, name: str, run: Callable[[argparse.Namespace], None], text: str
) -> argparse.ArgumentParser:
    command = commands.add_parser(
        name, help=text, description=text, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    command.add_argument(
        "--model",
        type=path_text,
        metavar="FOLDER",
        help="model folder made by `make export-tflite`; else the shipped one",
    )
    command.add_argument("--max-pixels", type=int, default=MAX_PIXELS, help="refuse larger pictures")
    command.add_argument(
        "--log-level", choices=("debug", "info", "warning", "error"), default="info", help="on standard error"
    )
    command.set_defaults(run=run)
    return command


def _add_encode(commands: _Commands) -> None:
    text = "code a picture as a Region JPEG, or pictures of a camera that stands still as a stream"
    encode = _add_command(commands, "encode", _encode, text)
    encode.add_argument(
        "pictures",
        nargs="+",
        type=path_text,
        help="a file that OpenCV reads, or -; many, or a folder, for --stream; turned upright by its Exif orientation",
    )
    encode.add_argument(
        "output", type=path_text, help="JPEG file to write, or - for standard output; a folder for --stream"
    )
    amount = encode.add_mutually_exclusive_group()
    amount.add_argument("--quality", type=float, help="1..100 (50 if neither this nor --target-bytes is given)")
    amount.add_argument("--target-bytes", type=int, help="largest size of a file")
    encode.add_argument(
        "--coding-size", type=_size, metavar="WxH", help="reduce to this before coding; else chosen by rate"
    )
    encode.add_argument("--subsampling", choices=("4:2:0", "4:4:4"), default="4:2:0", help="of chroma")
    encode.add_argument("--no-refine", action="store_true", help="send nothing but what the predictor finds by itself")
    encode.add_argument("--json", action="store_true", help="print facts of each file as a line of JSON")
    stream = encode.add_argument_group("streams")
    stream.add_argument("--stream", action="store_true", help="send of each picture only what is new")
    stream.add_argument("--key-seconds", type=float, default=600.0, help="longest time that one key serves")
    stream.add_argument("--interval", type=float, default=1.0, help="seconds from one picture to the next")
    stream.add_argument("--plain-view", choices=PLAIN_VIEWS, default="tiles", help="what viewers see that know no keys")
    encode.set_defaults(refuse=encode.error)


def _add_decode(commands: _Commands) -> None:
    text = (
        "decode a Region JPEG at the frame's size, or any JPEG, upright by its Exif orientation; keys are found among "
        "the files of its folder"
    )
    decode = _add_command(commands, "decode", _decode, text)
    decode.add_argument("jpeg", type=path_text, help="JPEG file, or - for standard input, or a folder of them")
    decode.add_argument(
        "output",
        type=path_text,
        help="picture to write; its ending names the format (.png, .bmp, ...); - for PNG; or folder",
    )
    decode.add_argument("--restore", action="store_true", help="let the model's restorer undo what coding did")
    decode.add_argument(
        "--without-key",
        choices=("error", "plain"),
        default="error",
        help="what to make of a follower whose key is not there",
    )


def _add_inspect(commands: _Commands) -> None:
    look = _add_command(commands, "inspect", _inspect, "tell what a JPEG says of itself: sizes, map, bytes by segment")
    look.add_argument("jpeg", type=path_text, help="JPEG file, or - for standard input")
    look.add_argument("--json", action="store_true", help="everything, the map's levels too, as one JSON object")


def _add_map(commands: _Commands) -> None:
    text = (
        "draw the generator's and the predictor's maps beside the picture, in quality factors; of a Region JPEG its own"
    )
    draw = _add_command(commands, "map", _map, text)
    draw.add_argument("pictures", type=path_text, help="a picture or a folder of them")
    draw.add_argument("output", type=path_text, help="PNG file to write, or folder if `pictures` is one")
    draw.add_argument("--quality", type=float, default=50.0, help="1..100")


def _size(text: str) -> tuple[int, int]:
    width, separator, height = text.partition("x")
    if not (separator and width.isdigit() and height.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no size, expected WIDTHxHEIGHT as in 176x144")
    return int(height), int(width)


def _encode(args: argparse.Namespace) -> None:
    quality = 50.0 if args.quality is None and args.target_bytes is None else args.quality
    encoder = Encoder(args.model, refine=not args.no_refine)
    if args.stream:
        _encode_stream(args, encoder, quality)
        return
    if len(args.pictures) != 1:
        args.refuse(f"{len(args.pictures)} pictures were given, expected one, or --stream")
    frame = _read_picture(args.pictures[0], args.max_pixels)
    encoded = encoder.encode_with_details(
        frame, quality, args.target_bytes, coding_size=args.coding_size, subsampling=args.subsampling
    )
    facts = _facts_of(encoded, frame)
    _write(args.output, encoded.jpeg)
    if args.json:
        # Standard output may be for the file itself.
        print(json.dumps(facts), file=sys.stderr if args.output == STANDARD_STREAM else sys.stdout)
    else:
        height, width = encoded.coding_size
        text = "%d bytes, %.3f bpp, quality %.1f, coded at %dx%d"
        logger.info(text, facts["bytes"], facts["bpp"], encoded.quality, width, height)


def _facts_of(encoded: EncodedFrame, frame: NDArray[np.uint8]) -> dict[str, Any]:
    return {
        "bytes": len(encoded.jpeg),
        "bpp": 8 * len(encoded.jpeg) / (frame.shape[0] * frame.shape[1]),
        "quality": encoded.quality,
        "coding_size": list(encoded.coding_size),
        "marker_bytes": encoded.marker_bytes,
        "refinement_bytes": encoded.refinement_bytes,
        "kind": encoded.kind,
        "id": encoded.id,
        "base_id": encoded.base_id,
    }


def _encode_stream(args: argparse.Namespace, encoder: Encoder, quality: float | None) -> None:
    if args.subsampling != "4:2:0":
        args.refuse(f"--stream codes at 4:2:0, not at {args.subsampling}")
    paths = [Path(picture) for picture in args.pictures]
    if len(paths) == 1 and paths[0].is_dir():
        paths = list_pictures(paths[0], PICTURE_SUFFIXES)
    names = [f"{path.stem}.jpg" for path in paths]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"two of the pictures would be written as {twice}, expected different names")
    number = 0
    stream = StreamEncoder(
        encoder, key_seconds=args.key_seconds, plain_view=args.plain_view, clock=lambda: number * args.interval
    )
    sizes: dict[str, list[int]] = {"key": [], "patch": [], "follower": []}
    for number, (path, name) in enumerate(zip(paths, names, strict=True)):  # noqa: B007 - the stream's clock reads it
        frame = _read_picture(str(path), args.max_pixels)
        coded = stream.encode(frame, quality, args.target_bytes, coding_size=args.coding_size)
        write_whole(Path(args.output) / name, coded.jpeg)
        sizes[coded.kind].append(len(coded.jpeg))
        facts = {"picture": str(path), "file": name} | _facts_of(coded, frame)
        if args.json:
            print(json.dumps(facts))
        else:
            on = "" if coded.base_id is None else f" on {coded.base_id}"
            logger.info("%s: %s %s%s, %d bytes", name, coded.kind, coded.id, on, len(coded.jpeg))
    counts = ", ".join(f"{len(of_kind)} {kind} of {sum(of_kind)} bytes" for kind, of_kind in sizes.items() if of_kind)
    logger.info("%s", counts)


def _decode(args: argparse.Namespace) -> None:
    decoder = Decoder(args.model, max_pixels=args.max_pixels, restore=args.restore)
    if Path(args.jpeg).is_dir():
        _decode_folder(args, decoder)
        return
    finder = _finder_beside(args.jpeg, decoder)
    frame = _decode_file(_read(args.jpeg), decoder, finder, args.without_key)
    ending = ".png" if args.output == STANDARD_STREAM else Path(args.output).suffix
    _write(args.output, _picture_file(frame, ending, args.output))


def _finder_beside(path: str, decoder: Decoder) -> KeyFinder:
    """Return a finder of keys among the files of a folder, or of a file's folder."""
    if path == STANDARD_STREAM:
        return KeyFinder(decoder, [])
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    return KeyFinder(decoder, sorted(file for file in folder.glob("*") if file.suffix.lower() in JPEG_SUFFIXES))


def _decode_file(jpeg: bytes, decoder: Decoder, finder: KeyFinder, without_key: str) -> NDArray[np.uint8]:
    try:
        return finder.decode_with_details(jpeg).frame
    except KeyMissingError:
        if without_key == "error":
            raise
        return decoder.decode_plain(jpeg)


def _decode_folder(args: argparse.Namespace, decoder: Decoder) -> None:
    source, output = Path(args.jpeg), Path(args.output)
    paths = list_pictures(source, JPEG_SUFFIXES)
    finder = KeyFinder(decoder, paths)
    failed = 0
    for number, (path, stem) in enumerate(zip(paths, distinct_stems(paths), strict=True), 1):
        try:
            frame = _decode_file(read_whole(path), decoder, finder, args.without_key)
            write_whole(output / f"{stem}.png", _picture_file(frame, ".png", str(path)))
            logger.info("%d of %d: %s", number, len(paths), path.name)
        except (JpegError, StorageError) as error:
            failed += 1
            logger.warning("skipped: %s: %s", path.name, error)
    if failed:
        raise StorageError(f"{failed} of {len(paths)} files in {source} could not be decoded")


def _inspect(args: argparse.Namespace) -> None:
    jpeg = _read(args.jpeg)
    decoder = Decoder(args.model, max_pixels=args.max_pixels)
    facts = inspect(jpeg, decoder.model, max_pixels=args.max_pixels)
    for base in _finder_beside(args.jpeg, decoder).bases_for(jpeg):
        try:
            facts = inspect(jpeg, decoder.model, base=base, max_pixels=args.max_pixels)
        except MarkerError as error:
            logger.warning("%s", error)
    if args.json:
        print(json.dumps(facts, default=lambda value: np.asarray(value).tolist()))
        return
    for name, value in facts.items():
        if name == "quality_map":
            luma, chroma = (f"{of.min()}..{of.max()} (mean {of.mean():.2f})" for of in np.moveaxis(value, -1, 0))
            print(f"levels: luma {luma}, chroma {chroma}")
        elif name == "kept":
            print(f"kept: {np.count_nonzero(value)} of {value.size} regions")
        elif name == "quality_factors":
            for channel, label in enumerate(("luma", "chroma")):
                print(f"quality factors, {label}:")
                print("\n".join(" ".join(f"{factor:3.0f}" for factor in row) for row in value[..., channel]))
        elif name != "tables":
            print(f"{name}: {value}")


def _map(args: argparse.Namespace) -> None:
    source, output = Path(args.pictures), Path(args.output)
    encoder = Encoder(args.model)
    finder = _finder_beside(args.pictures, Decoder(encoder.model, max_pixels=args.max_pixels))
    if not source.is_dir():
        write_whole(output, _map_sheet(source, encoder, finder, args))
        return
    pictures = list_pictures(source, PICTURE_SUFFIXES)
    failed = 0
    for number, (picture, stem) in enumerate(zip(pictures, distinct_stems(pictures), strict=True), 1):
        try:
            write_whole(output / f"{stem}.map.png", _map_sheet(picture, encoder, finder, args))
            logger.info("%d of %d: %s", number, len(pictures), picture.name)
        except (InputError, JpegError, StorageError) as error:
            failed += 1
            logger.warning("skipped: %s: %s", picture.name, error)
    if failed:
        raise StorageError(f"{failed} of {len(pictures)} pictures in {source} could not be drawn")


def _map_sheet(path: Path, encoder: Encoder, finder: KeyFinder, args: argparse.Namespace) -> bytes:
    jpeg = read_whole(path)
    if _is_region_jpeg(jpeg, args.max_pixels):
        return _own_map_sheet(path, jpeg, encoder, finder)
    frame = _read_picture(str(path), args.max_pixels)
    encoded = encoder.encode_with_details(frame, args.quality)
    size = (int(frame.shape[0]), int(frame.shape[1]))
    panels = {"picture": frame}
    for network, levels in (("generator", encoded.generator_map), ("predictor", encoded.predictor_map)):
        if levels is None:
            continue
        factors = maps.quality_factors(
            levels, encoder.model.map_quantizer.scales, encoded.tables, encoder.model.base_tables
        )
        panels |= _panels(network, factors, encoded.coding_size, size)
    return _picture_file(maps.compose(panels), ".png", str(path))


def _is_region_jpeg(data: bytes, max_pixels: int) -> bool:
    try:
        return identify(data, max_pixels=max_pixels).kind != "plain"
    except JpegError:
        return False


def _own_map_sheet(path: Path, jpeg: bytes, encoder: Encoder, finder: KeyFinder) -> bytes:
    decoded = finder.decode_with_details(jpeg)
    height, width = decoded.frame.shape[:2]
    name = f"{decoded.identity.kind} {decoded.identity.id}"
    panels = {name: decoded.frame}
    if decoded.octaves is not None:
        factors = maps.quality_factors_of_octaves(decoded.octaves, encoder.model.base_tables)
        panels |= _panels("shown", factors, decoded.coding_size, (height, width), decoded.kept)
    return _picture_file(maps.compose(panels), ".png", str(path))


def _panels(
    name: str,
    factors: NDArray[np.float64],
    coding_size: tuple[int, int],
    size: tuple[int, int],
    kept: NDArray[np.bool_] | None = None,
) -> dict[str, NDArray[np.uint8]]:
    """Return drawings of quality factors, luma and chroma, by their titles."""
    panels = {}
    for channel, part in enumerate(("luma", "chroma")):
        low, high = factors[..., channel].min(), factors[..., channel].max()
        drawn = maps.draw(factors[..., channel], coding_size, size, kept)
        panels[f"{name} {part} QF {low:.0f}-{high:.0f}"] = drawn
    return panels


def _read(path: str) -> bytes:
    data = sys.stdin.buffer.read() if path == STANDARD_STREAM else read_whole(path)
    frames = frames_of([data], len(data))
    if next(frames, None) is not None and next(frames, None) is not None:
        logger.warning("%s is a film of several frames; the first is taken (rjpeg.VideoReader has them all)", path)
    return data


def _write(path: str, data: bytes) -> None:
    if path == STANDARD_STREAM:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    else:
        write_whole(path, data)


def _read_picture(path: str, max_pixels: int) -> NDArray[np.uint8]:
    return decode_picture(_read(path), path, max_pixels)


def _picture_file(frame: NDArray[np.uint8], ending: str, path: str) -> bytes:
    try:
        done, data = cv2.imencode(ending, frame)
    except cv2.error as error:
        raise InputError(
            f"output {path}: OpenCV writes no {ending or 'files without an ending'}: {error.err}"
        ) from error
    if not done:
        raise StorageError(f"output {path}: OpenCV could not make a {ending} of the picture")
    return data.tobytes()


if __name__ == "__main__":
    sys.exit(main())

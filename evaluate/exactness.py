"""`python -m evaluate.exactness`: does the decoder read the very map that the encoder used?

Encoder and decoder run in processes of their own, on the two TFLite runtimes crossed, over many pictures
at several qualities. Films are coded as streams besides: what is kept, and every decoded picture, must be the same.
Also measured: what the marker costs, and how well `target_bytes` is met.
"""

import argparse
import functools
import json
import logging
import multiprocessing
import os
import statistics
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

import rjpeg
from evaluate.arguments import command_of
from evaluate.data import PICTURE_SUFFIXES, Picture, load, read_frame
from evaluate.scores import byte_budget
from evaluate.stream_exactness import Film, FilmFile, Shown, encode_film, make_films, show_film, tally_films
from rjpeg._arguments import run_program
from rjpeg._runtime import runtime_name
from rjpeg.errors import InputError, ModelError, RjpegError, TargetError

logger = logging.getLogger(__name__)

RUNTIMES = ("tflite_runtime", "ai_edge_litert")
CALIBRATION_DATA = Path(__file__).resolve().parents[1] / "calibration_data"
TARGET_RATES = (0.25, 1.0)  # bpp, drawn between them
ORDINARY_SIDE = 160  # pixels; below it a target in bpp is a matter of headers
ALLOWED_SHORTFALL = 0.03


@dataclass(frozen=True)
class File:
    """A coded picture: how it was asked for, the file, and the encoder's own word on its map and marker."""

    asked: str
    target_bytes: int | None
    jpeg: bytes
    quality_map: np.ndarray
    marker_bytes: int
    refinement_bytes: int


@dataclass(frozen=True)
class Job:
    """A picture to code at some qualities, and for `target_bpp` if that is not None."""

    picture: Picture
    qualities: tuple[float, ...]
    target_bpp: float | None


def varied_pictures(files: list[Path], count: int, seed: int = 0) -> list[Picture]:
    """Make `count` different pictures: whole ones, crops of 224x224, crops of odd sizes and small crops in turn.

    Every file serves before one serves twice. Raises InputError when a file cannot be read, or when the files
    are too small to give so many.
    """
    if not files:
        raise InputError("no pictures to cut from")
    rng = np.random.default_rng(seed)
    order = [files[index] for index in rng.permutation(len(files))]
    pictures: dict[str, Picture] = {}
    for attempt in range(20 * count):
        path = order[attempt % len(order)]
        height, width = read_frame(path).shape[:2]
        size: tuple[int, ...]
        match attempt % 4:
            case 0:
                size = (height, width) if attempt < len(order) else (height - 1, width - 3)
            case 1:
                size = (224, 224)
            case 2:
                size = tuple(int(rng.integers(min(16, side), side + 1)) | 1 for side in (height, width))
            case _:
                size = tuple(int(rng.integers(1, 100)) for _ in range(2))
        rows, cols = (max(1, min(side, wanted)) for side, wanted in zip((height, width), size, strict=True))
        top, left = (int(rng.integers(0, room + 1)) for room in (height - rows, width - cols))
        name = f"{path}@{top},{left} {cols}x{rows}"
        pictures[name] = Picture(name, path, None, (top, left, rows, cols))
        if len(pictures) == count:
            return list(pictures.values())
    raise InputError(f"{len(files)} pictures give only {len(pictures)} different crops, {count} were asked for")


def make_jobs(pictures: list[Picture], qualities: tuple[float, ...], seed: int = 0) -> list[Job]:
    """List every picture at every quality; those of ordinary size also for a number of bytes."""
    rng = np.random.default_rng(seed)
    jobs = []
    for picture in pictures:
        rate = float(rng.uniform(*TARGET_RATES))
        ordinary = picture.window is not None and min(picture.window[2:]) >= ORDINARY_SIDE
        jobs.append(Job(picture, qualities, rate if ordinary else None))
    return jobs


def start_worker(runtime: str) -> None:
    """Set the TFLite runtime of a fresh process, before anything loads one."""
    os.environ["RJPEG_RUNTIME"] = runtime
    cv2.setNumThreads(1)


@functools.cache
def _coder(model: str | None) -> tuple[rjpeg.Encoder, rjpeg.Decoder]:
    if runtime_name() != os.environ["RJPEG_RUNTIME"]:
        raise ModelError(f"this process runs {runtime_name()}, expected {os.environ['RJPEG_RUNTIME']}")
    return rjpeg.Encoder(model), rjpeg.Decoder(model)


def encode(job: Job, model: str | None) -> list[File]:
    """Encode the files of a job. A target that is out of reach gives no file."""
    encoder, _ = _coder(model)
    frame = load(job.picture, "whole", (0, 0))
    asked: list[tuple[str, dict[str, Any]]] = [(f"quality {q:g}", {"quality": q}) for q in job.qualities]
    if job.target_bpp is not None:
        target = byte_budget(job.target_bpp, *frame.shape[:2])
        asked.append((f"{target} bytes", {"target_bytes": target}))
    files = []
    for text, options in asked:
        try:
            coded = encoder.encode_with_details(frame, **options)
        except TargetError:
            continue
        files.append(
            File(
                text,
                options.get("target_bytes"),
                coded.jpeg,
                coded.quality_map,
                coded.marker_bytes,
                coded.refinement_bytes,
            )
        )
    return files


def decode(jpegs: list[bytes], model: str | None) -> list[np.ndarray | str]:
    """Decode each file: the map that is found, or the error."""
    _, decoder = _coder(model)
    maps: list[np.ndarray | str] = []
    for jpeg in jpegs:
        try:
            decoded = decoder.decode_with_details(jpeg)
            maps.append("no map" if decoded.quality_map is None else decoded.quality_map)
        except RjpegError as error:
            maps.append(f"{type(error).__name__}: {error}")
    return maps


def encode_frames(film: Film, model: str | None) -> list[FilmFile]:
    """Encode a film as a stream."""
    return encode_film(film, *_coder(model))


def decode_frames(jpegs: list[bytes], model: str | None) -> list[Shown | str]:
    """Decode the files of a stream: what each shows, or the error."""
    return show_film(jpegs, _coder(model)[1])


def cross(
    jobs: list[Job], films: list[Film], encoder: str, decoder: str, model: str | None, workers: int
) -> dict[str, Any]:
    """Return the figures of all jobs and films, encoded on one runtime and decoded on another.

    Raises RjpegError when a runtime or the model cannot be used.
    """
    context = multiprocessing.get_context("spawn")
    each = max(1, workers // 2)
    with (
        ProcessPoolExecutor(each, context, start_worker, (encoder,)) as encoders,
        ProcessPoolExecutor(each, context, start_worker, (decoder,)) as decoders,
        tqdm(total=len(jobs) + len(films), desc=f"{encoder} to {decoder}", unit="picture", disable=None) as progress,
    ):
        coded: list[list[File]] = []
        answers = []
        for files in encoders.map(functools.partial(encode, model=model), jobs, chunksize=4):
            coded.append(files)
            answers.append(decoders.submit(decode, [file.jpeg for file in files], model))
            progress.update()
        streams: list[list[FilmFile]] = []
        shown = []
        for frames in encoders.map(functools.partial(encode_frames, model=model), films):
            streams.append(frames)
            shown.append(decoders.submit(decode_frames, [frame.jpeg for frame in frames], model))
            progress.update()
        found = [answer.result() for answer in answers]
        found_frames = [answer.result() for answer in shown]
    figures = tally(jobs, coded, found) | tally_films(films, streams, found_frames)
    return figures | {"encoder": encoder, "decoder": decoder}


def tally(jobs: list[Job], coded: list[list[File]], found: list[list[np.ndarray | str]]) -> dict[str, Any]:
    """Add up files, maps that differ, marker bytes, and how targets were met."""
    differing = []
    for job, files, maps in zip(jobs, coded, found, strict=True):
        for file, read in zip(files, maps, strict=True):
            if isinstance(read, str):
                differing.append(f"{job.picture.name}, {file.asked}: {read}")
            elif not (read.dtype == file.quality_map.dtype and np.array_equal(read, file.quality_map)):
                differing.append(f"{job.picture.name}, {file.asked}: another map")
    files = [file for row in coded for file in row]
    all_bytes = sum(len(file.jpeg) for file in files)
    aimed = [(len(file.jpeg), file.target_bytes) for file in files if file.target_bytes is not None]
    shortfalls = [1 - size / target for size, target in aimed]
    return {
        "pictures": len(jobs),
        "files": len(files),
        "differing": len(differing),
        "differing_files": differing,
        "refined_files": sum(file.refinement_bytes > 0 for file in files),
        "mean_marker_bytes": statistics.fmean(file.marker_bytes - file.refinement_bytes for file in files),
        "refinement_share": sum(file.refinement_bytes for file in files) / all_bytes,
        "targets": len(aimed),
        "targets_out_of_reach": sum(job.target_bpp is not None for job in jobs) - len(aimed),
        "targets_exceeded": sum(size > target for size, target in aimed),
        "targets_missed_by_more_than_3_percent": sum(short > ALLOWED_SHORTFALL for short in shortfalls),
        "mean_shortfall": statistics.fmean(shortfalls) if shortfalls else None,
        "largest_shortfall": max(shortfalls, default=None),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Render the figures, one column for each pair of runtimes."""

    def percent(value: float | None, digits: int = 2) -> str:
        return "-" if value is None else f"{100 * value:.{digits}f} %"

    lines: list[tuple[str, list[str]]] = [
        ("encoded with", [row["encoder"] for row in rows]),
        ("decoded with", [row["decoder"] for row in rows]),
        ("pictures", [str(row["pictures"]) for row in rows]),
        ("files", [str(row["files"]) for row in rows]),
        ("files whose map differs (must be 0)", [str(row["differing"]) for row in rows]),
        ("mean marker bytes without refinements (at most 16)", [f"{row['mean_marker_bytes']:.2f}" for row in rows]),
        ("films coded as streams", [str(row["films"]) for row in rows]),
        (
            "their keys, patches and followers",
            [f"{row['film_keys']}, {row['film_patches']}, {row['film_followers']}" for row in rows],
        ),
        ("their files that show another picture (must be 0)", [str(row["film_files_differing"]) for row in rows]),
        ("files with refinements", [str(row["refined_files"]) for row in rows]),
        ("refinements' share of all bytes (under 1 %)", [percent(row["refinement_share"], 3) for row in rows]),
        ("files for a target", [str(row["targets"]) for row in rows]),
        ("targets out of reach", [str(row["targets_out_of_reach"]) for row in rows]),
        ("targets exceeded (must be 0)", [str(row["targets_exceeded"]) for row in rows]),
        (
            "targets missed by more than 3 %",
            [str(row["targets_missed_by_more_than_3_percent"]) for row in rows],
        ),
        ("mean shortfall", [percent(row["mean_shortfall"]) for row in rows]),
        ("largest shortfall", [percent(row["largest_shortfall"]) for row in rows]),
    ]
    first = max(len(name) for name, _ in lines)
    second = max(len(cell) for _, cells in lines for cell in cells)
    return "\n".join(f"{name:<{first}}" + "".join(f"  {cell:>{second}}" for cell in cells) for name, cells in lines)


def build_parser() -> argparse.ArgumentParser:
    """Build the command line; its help shows every default."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluate.exactness",
        description="Checks over many pictures that the decoder reads the encoder's map, and over films that it shows "
        "the same frames, with encoder and decoder on the two TFLite runtimes crossed. Exit status 1 when a map or a "
        "frame differs or a target is exceeded.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--data", type=Path, default=CALIBRATION_DATA, metavar="DIR", help="folder of pictures, with those below it")
    add("--pictures", type=int, default=1000, metavar="N", help="different pictures, cut from those of the folder")
    add("--films", type=int, default=100, metavar="N", help="of the pictures, coded as streams, 8 frames each")
    add("--qualities", type=float, nargs="+", default=[10.0, 30.0, 50.0, 70.0, 90.0], metavar="Q", help="1..100")
    add("--runtimes", nargs="+", choices=RUNTIMES, default=list(RUNTIMES), help="one, or two to cross")
    add("--model", metavar="DIR", help="model folder; the shipped one if not given")
    add("--seed", type=int, default=0, help="of the choice of crops and targets")
    add("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="processes, half of them encoding")
    add("--json", action="store_true", help="print JSON in place of the table")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0 when every map was read exactly, 1 when not or on an error, 2 for wrong usage."""
    arguments = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        if arguments.pictures < 1 or arguments.workers < 1 or arguments.films < 0:
            raise InputError("--pictures and --workers must be at least 1, and --films at least 0")
        if not arguments.data.is_dir():
            raise InputError(f"data folder {arguments.data} is not a folder")
        files = sorted(p for p in arguments.data.rglob("*") if p.suffix.lower() in PICTURE_SUFFIXES)
        pictures = varied_pictures(files, arguments.pictures, arguments.seed)
        jobs = make_jobs(pictures, tuple(arguments.qualities), arguments.seed)
        films = make_films(pictures, arguments.films, tuple(arguments.qualities))
        names = list(dict.fromkeys(arguments.runtimes))
        pairs = [(names[0], names[-1])] + ([(names[-1], names[0])] if len(names) > 1 else [])
        rows = [cross(jobs, films, *pair, arguments.model, arguments.workers) for pair in pairs]
    except BrokenProcessPool:
        print("error: a worker process died; was memory short? fewer --workers need less", file=sys.stderr)
        return 1
    except RjpegError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    sources = len({picture.path for picture in pictures})
    logger.info("%d different pictures from %d files", len(pictures), sources)
    if arguments.json:
        print(json.dumps({"command": command_of("evaluate.exactness"), "source_files": sources, "pairs": rows}))
    else:
        print(table(rows))
    for row in rows:
        for text in row["differing_files"][:10] + row["differing_film_files"][:10]:
            logger.error("%s to %s: %s", row["encoder"], row["decoder"], text)
    return 1 if any(row["differing"] or row["film_files_differing"] or row["targets_exceeded"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(run_program(main))

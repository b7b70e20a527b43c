"""Decodes mutants, one for every number that comes on standard input, and says in a JSON line what happened.

Started by `python -m tests.fuzz`, which sees its end where a mutant crashes it: by a signal, by a sanitizer's report,
or by SIGPROF, when the processor time that one mutant may take is over.
"""

import argparse
import contextlib
import json
import re
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import rjpeg
from rjpeg import _native
from tests.fuzz import bombs, corpus, mutator, oracle, stream_oracle, streams

# every so many mutants are also restored, up to so many pixels: it costs more than all the rest
RESTORED, MOST_RESTORED = 16, 2**20


class Worker:
    """What one process needs to decode mutants."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.seed, self.cpu_seconds = args.seed, args.cpu_seconds
        self.bombs = bombs.make(args.max_pixels) if args.bombs else {}
        self.decoder = rjpeg.Decoder(max_pixels=args.max_pixels, restore=args.restore)
        good = corpus.region_files()["region 48x64"]
        self.good = (good, self.decoder.decode(good))
        self.restorer = None
        if "restorer" in self.decoder.model.manifest and not self.bombs:
            self.restorer = rjpeg.Decoder(self.decoder.model, max_pixels=MOST_RESTORED, restore=True)

    def work(self, number: int) -> dict[str, Any]:
        """Decode a mutant. The result's "finding" says what is wrong with the decoder, None where nothing is."""
        if self.bombs:
            name = list(self.bombs)[number]
            mutant = mutator.Mutant(self.bombs[name], name, (), True)
        else:
            mutant = mutator.make(self.seed, number)
        result: dict[str, Any] = {
            "number": number,
            "seed": mutant.seed,
            "steps": mutant.steps,
            "signed": mutant.signed,
            "bytes": len(mutant.jpeg),
            "finding": None,
        }
        before = reset_peak()
        started, cpu_started = time.perf_counter(), time.process_time()
        signal.setitimer(signal.ITIMER_PROF, self.cpu_seconds)
        decoded = None
        try:
            decoded = self.decoder.decode_with_details(mutant.jpeg)
            result["outcome"] = "ordinary" if decoded.quality_map is None else "region"
        except rjpeg.RjpegError as error:
            result["outcome"] = f"{type(error).__name__}: {kind_of(str(error))}"
            if "nsufficient memory" in str(error):
                result["finding"] = str(error)
        except BaseException as error:  # noqa: BLE001
            result["outcome"] = type(error).__name__
            result["finding"] = "".join(traceback.format_exception(error))[-2000:]
        signal.setitimer(signal.ITIMER_PROF, 0)
        result["seconds"] = time.perf_counter() - started
        result["cpu_seconds"] = time.process_time() - cpu_started
        result["memory"] = max(0, peak() - before)
        if result["finding"] is None and decoded is not None:
            result["finding"] = self._wrong(mutant, decoded)
        if result["finding"] is None:
            result["finding"] = self._others(mutant, number)
        if result["finding"] is None and not self.bombs:
            result["finding"] = self._among_others(mutant, decoded)
        return result

    def work_on_stream(self, number: int) -> dict[str, Any]:
        """Decode the files of a mutated stream, one after another and all at once."""
        mutant = streams.make(self.seed, number)
        result: dict[str, Any] = {
            "number": number,
            "seed": mutant.steps[0],
            "steps": mutant.steps[1:],
            "bytes": sum(len(file.jpeg) for file in mutant.files),
            "finding": None,
        }
        before = reset_peak()
        started, cpu_started = time.perf_counter(), time.process_time()
        signal.setitimer(signal.ITIMER_PROF, self.cpu_seconds)
        found: list[rjpeg.DecodedFrame | rjpeg.JpegError] = []
        used: list[rjpeg.Base | None] = []
        try:
            stream = BoundedBases(self.decoder)
            for file in mutant.files:
                one, base = stream.decode(file.jpeg)
                found.append(one)
                used.append(base)
            result["outcomes"] = [outcome_of(one) for one in found]
        except BaseException as error:  # noqa: BLE001
            result["outcomes"] = [type(error).__name__]
            result["finding"] = "".join(traceback.format_exception(error))[-2000:]
        signal.setitimer(signal.ITIMER_PROF, 0)
        result["outcome"] = "stream"
        result["seconds"] = time.perf_counter() - started
        result["cpu_seconds"] = time.process_time() - cpu_started
        result["memory"] = max(0, peak() - before)
        if result["finding"] is None:
            result["finding"] = self._wrong_in_stream(mutant, found, used)
        return result

    def _wrong_in_stream(
        self,
        mutant: streams.Mutant,
        found: list[rjpeg.DecodedFrame | rjpeg.JpegError],
        used: list[rjpeg.Base | None],
    ) -> str | None:
        signal.setitimer(signal.ITIMER_PROF, 10 * self.cpu_seconds)
        try:
            for file, one, base in zip(mutant.files, found, used, strict=True):
                finding = None
                if isinstance(one, rjpeg.DecodedFrame):
                    finding = stream_oracle.check(file, one, base)
                    tell = (rjpeg.inspect, rjpeg.region_bits)
                    for other in tell if one.identity.base_id is not None else ():
                        with contextlib.suppress(rjpeg.RjpegError):
                            other(file.jpeg, base=base, max_pixels=self.decoder.max_pixels)
                if finding is not None:
                    return finding
            return self._wrong_at_once(mutant)
        except BaseException as error:  # noqa: BLE001
            return "the oracle, inspect, region_bits or a batch: " + "".join(traceback.format_exception(error))[-2000:]
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)

    def _wrong_at_once(self, mutant: streams.Mutant) -> str | None:
        """What is wrong where all files are given at once, and by StreamDecoder."""
        batch = self.decoder.decode_batch([file.jpeg for file in mutant.files])
        stream = rjpeg.StreamDecoder(self.decoder, max_bases=2)
        for file, of_batch in zip(mutant.files, batch, strict=True):
            one: rjpeg.DecodedFrame | rjpeg.JpegError
            try:
                one = stream.decode_with_details(file.jpeg)
            except rjpeg.JpegError as error:
                one = error
            for name, each in (("a batch", of_batch), ("a stream", one)):
                if file.signed or isinstance(each, rjpeg.JpegError) or each.identity.kind == "plain":
                    continue
                original = streams.originals().get(each.identity.id or "")
                if original is None or not np.array_equal(original, each.frame):
                    return f"{each.identity.kind} {each.identity.id} is another picture in {name}"
            if isinstance(one, rjpeg.DecodedFrame) and isinstance(of_batch, rjpeg.JpegError):
                return f"decoded in a stream, and in a batch: {of_batch}"
        return None

    def _among_others(self, mutant: mutator.Mutant, alone: rjpeg.DecodedFrame | None) -> str | None:
        """What is wrong where the file is decoded together with others: all must come out as they do alone."""
        signal.setitimer(signal.ITIMER_PROF, 5 * self.cpu_seconds)
        try:
            first, among, last = self.decoder.decode_batch([self.good[0], mutant.jpeg, self.good[0]])
        except BaseException as error:  # noqa: BLE001
            return "in a batch: " + "".join(traceback.format_exception(error))[-2000:]
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        if any(
            isinstance(one, rjpeg.JpegError) or not np.array_equal(one.frame, self.good[1]) for one in (first, last)
        ):
            return "a good file comes out otherwise, in a batch with this one"
        if (alone is None) != isinstance(among, rjpeg.JpegError):
            return f"in a batch it is {type(among).__name__}"
        if alone is not None and not np.array_equal(among.frame, alone.frame):  # type: ignore[union-attr]
            return "in a batch it is another picture"
        return None

    def _others(self, mutant: mutator.Mutant, number: int) -> str | None:
        """What else of the library takes files: inspect, bits by region and, now and then, restoration."""
        jpeg, limit = mutant.jpeg, self.decoder.max_pixels
        others: list[Callable[[], object]] = [
            lambda: rjpeg.inspect(jpeg, self.decoder.model, max_pixels=limit),
            lambda: rjpeg.region_bits(jpeg, max_pixels=limit),
        ]
        if self.restorer is not None and number % RESTORED == 0:
            others.append(lambda: self.restorer.decode(jpeg))
        signal.setitimer(signal.ITIMER_PROF, 5 * self.cpu_seconds)
        try:
            for other in others:
                with contextlib.suppress(rjpeg.RjpegError):
                    other()
        except BaseException as error:  # noqa: BLE001
            return "inspect, region_bits or restore: " + "".join(traceback.format_exception(error))[-2000:]
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        return None

    def _wrong(self, mutant: mutator.Mutant, decoded: rjpeg.DecodedFrame) -> str | None:
        """What is wrong with a picture that was accepted."""
        pixels = decoded.frame.shape[0] * decoded.frame.shape[1]
        if pixels > self.decoder.max_pixels:
            return f"{pixels} pixels are accepted, more than the limit"
        if decoded.quality_map is None:
            return None
        if self.bombs:
            return None  # too large for a reader in Python
        try:
            return oracle.check(mutant.jpeg, decoded, self.decoder.model, signed=mutant.signed)
        except Exception as error:  # noqa: BLE001
            return "the oracle fails: " + "".join(traceback.format_exception(error))[-1500:]


class BoundedBases:
    """Decodes the files of a stream with all bases that came, and says which was used."""

    def __init__(self, decoder: rjpeg.Decoder) -> None:
        self._decoder = decoder
        self._bases: dict[str, rjpeg.Base] = {}

    def decode(self, jpeg: bytes) -> tuple[rjpeg.DecodedFrame | rjpeg.JpegError, rjpeg.Base | None]:
        """The frame or error of a file, and the base that it was decoded with."""
        base = None
        try:
            base_id = rjpeg.identify(jpeg, max_pixels=self._decoder.max_pixels).base_id
            base = self._bases.get(base_id or "")
            decoded, kept = self._decoder.decode_and_keep(jpeg, base)
        except rjpeg.JpegError as error:
            return error, base
        if kept is not None:
            self._bases[kept.id] = kept
        return decoded, base


def outcome_of(one: rjpeg.DecodedFrame | rjpeg.JpegError) -> str:
    """What became of a file, in a few words."""
    if isinstance(one, rjpeg.JpegError):
        return f"{type(one).__name__}: {kind_of(str(one))}"
    return "ordinary" if one.identity.kind == "plain" else one.identity.kind


def kind_of(text: str) -> str:
    """An error's text without what differs from file to file."""
    return re.sub(r"0x[0-9a-f]+|\b[0-9a-f]{6}\b|\bmodel [0-9a-f]{4}\b|\d+", "N", text)[:90]


def reset_peak() -> int:
    """Resident bytes now, from which on the peak counts."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> int:
    """Most bytes that were resident since `reset_peak`."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", status)[1])  # type: ignore[index]


def main() -> None:
    """Work until standard input ends."""
    p = argparse.ArgumentParser()
    p.add_argument("--seed", type=int, required=True)
    p.add_argument("--bombs", action="store_true")
    p.add_argument("--streams", action="store_true")
    p.add_argument("--restore", action="store_true")
    p.add_argument("--max-pixels", type=int, required=True)
    p.add_argument("--cpu-seconds", type=float, required=True)
    p.add_argument("--memory", type=int, required=True, help="bytes beyond those at the start; 0: no limit")
    args = p.parse_args()
    cv2.setNumThreads(1)
    worker = Worker(args)
    if args.streams:
        streams.originals()
        streams.bases()
    else:
        oracle.originals()
    work = worker.work_on_stream if args.streams else worker.work
    if args.memory:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + args.memory, used + args.memory))
    ready = {
        "sanitized": b"__asan_init" in Path(_native.__file__).read_bytes(),
        "bombs": list(worker.bombs),
    }
    print(json.dumps(ready), flush=True)
    for line in sys.stdin:
        print(json.dumps(work(int(line))), flush=True)


if __name__ == "__main__":
    main()

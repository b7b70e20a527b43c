"""Decodes mutants, one for every number that comes on standard input, and says in a JSON line what happened.

Started by `python -m tests.fuzz`, which sees its end where a mutant crashes it: by a signal, by a sanitizer's report, or
by SIGPROF, when the processor time that one mutant may take is over.
"""

import argparse
import json
import re
import resource
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import cv2

import rjpeg
from rjpeg import _native
from tests.fuzz import bombs, mutator, oracle

# every so many mutants are also restored, which costs more than all the rest
RESTORED = 16


class Worker:
    """What one process needs to decode mutants."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.seed, self.cpu_seconds = args.seed, args.cpu_seconds
        self.bombs = bombs.make(args.max_pixels) if args.bombs else {}
        self.decoder = rjpeg.Decoder(max_pixels=args.max_pixels)
        model = self.decoder.model
        try:
            self.restorer: rjpeg.Decoder | None = rjpeg.Decoder(model, max_pixels=args.max_pixels, restore=True)
        except rjpeg.ModelError:
            self.restorer = None

    def work(self, number: int) -> dict[str, Any]:
        """Decode a mutant. The result's "finding" says what is wrong with the decoder, None where nothing is."""
        if self.bombs:
            name = list(self.bombs)[number]
            mutant = mutator.Mutant(self.bombs[name], name, (), True)
        else:
            mutant = mutator.make(self.seed, number)
        result: dict[str, Any] = {
            "number": number, "seed": mutant.seed, "steps": mutant.steps, "signed": mutant.signed,
            "bytes": len(mutant.jpeg), "finding": None,
        }  # fmt: skip
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
        except BaseException as error:
            result["outcome"] = type(error).__name__
            result["finding"] = "".join(traceback.format_exception(error))[-2000:]
        signal.setitimer(signal.ITIMER_PROF, 0)
        result["seconds"] = time.perf_counter() - started
        result["cpu_seconds"] = time.process_time() - cpu_started
        result["memory"] = max(0, peak() - before)
        if result["finding"] is None:
            result["finding"] = self._others(mutant, number) or (
                self._wrong(mutant, decoded) if decoded is not None else None
            )
        return result

    def _others(self, mutant: mutator.Mutant, number: int) -> str | None:
        """What else of the library takes files: inspect and, now and then, restoration."""
        signal.setitimer(signal.ITIMER_PROF, 5 * self.cpu_seconds)
        try:
            rjpeg.inspect(mutant.jpeg, self.decoder.model, max_pixels=self.decoder.max_pixels)
            if self.restorer is not None and number % RESTORED == 0:
                self.restorer.decode(mutant.jpeg)
        except rjpeg.RjpegError:
            pass
        except BaseException as error:
            return "inspect or restore: " + "".join(traceback.format_exception(error))[-2000:]
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
        except Exception as error:
            return "the oracle fails: " + "".join(traceback.format_exception(error))[-1500:]


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
    p.add_argument("--max-pixels", type=int, required=True)
    p.add_argument("--cpu-seconds", type=float, required=True)
    p.add_argument("--memory", type=int, required=True, help="bytes beyond those at the start; 0: no limit")
    args = p.parse_args()
    cv2.setNumThreads(1)
    worker = Worker(args)
    oracle.originals()
    if args.memory:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + args.memory, used + args.memory))
    ready = {"native": _native.__file__, "bombs": list(worker.bombs)}
    print(json.dumps(ready), flush=True)
    for line in sys.stdin:
        print(json.dumps(worker.work(int(line))), flush=True)


if __name__ == "__main__":
    main()

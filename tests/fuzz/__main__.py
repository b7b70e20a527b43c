"""Decode damaged and forged JPEG files by the thousand, and say what that did to the decoder.

Every mutant is made from a seed and its number, the same one each time, and decoded in another process under a limit
of time and memory. What is looked for: a crash, a hang, more memory than allowed, an error that is no RjpegError, a
picture that is accepted though its checksum or its map is wrong. The exit code is 1 if anything was found.
"""

import argparse
import collections
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[2]
WALL_SECONDS = 120
"""After which a process that uses no processor time is a hang, too: a wait for something that never comes."""


def main(arguments: list[str] | None = None) -> int:
    """The program; returns its exit code."""
    args = parser().parse_args(arguments)
    run = Run(args)
    if args.bombs:
        args.workers = 1
    pool = [threading.Thread(target=run.work) for _ in range(args.workers)]
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join()
    if run.failure is not None:
        print(f"error: {run.failure}", file=sys.stderr)
        return 2
    summary = run.summary()
    print(json.dumps(summary, indent=2))
    if args.bombs:
        for result in run.results:
            line = f"{result['seed']:58} {result['bytes']:>9,} bytes {result['seconds']:6.2f} s"
            line += f" ({result['cpu_seconds']:.2f} s on the processor) {result['memory'] / 2**20:6.1f} MiB"
            print(f"{line}  {result['outcome']}", file=sys.stderr)
    return 1 if run.findings else 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--count", type=int, default=10_000, metavar="N", help="mutants (default: %(default)s)")
    p.add_argument("--first", type=int, default=0, metavar="N", help="number of the first (default: %(default)s)")
    p.add_argument("--seed", type=int, default=1, metavar="N", help="of the run (default: %(default)s)")
    p.add_argument("--workers", type=int, default=2, metavar="N", help="processes (default: %(default)s)")
    p.add_argument("--bombs", action="store_true", help="in place of mutants, files that ask for the most they can")
    p.add_argument("--streams", action="store_true", help="in place of single files, streams of keys and followers")
    p.add_argument("--restore", action="store_true", help="decode with the restorer, too (default: now and then)")
    p.add_argument(
        "--max-pixels", type=int, default=2**24, metavar="N", help="the decoder's limit (default: %(default)s)"
    )
    p.add_argument(
        "--cpu-seconds", type=float, default=2.0, metavar="S", help="that a file may take (default: %(default)s)"
    )
    p.add_argument(
        "--memory",
        type=int,
        default=640,
        metavar="MIB",
        help="that a file may take beyond what the process has (default: %(default)s); not limited with --sanitized",
    )
    p.add_argument(
        "--sanitized", metavar="FOLDER", help="an environment made by `make .venv-sanitized/.ready` (default: none)"
    )
    p.add_argument(
        "--out",
        type=Path,
        default=ROOT / "out" / "fuzz",
        metavar="FOLDER",
        help="where files that something is wrong with go (default: out/fuzz)",
    )
    return p


def sanitized(environment: str) -> tuple[str, dict[str, str]]:
    """The Python of an environment whose native part has sanitizers, and the variables it needs."""
    # Python does not load C++'s library by itself, in which the sanitizer looks for the throwing of exceptions
    libraries = [
        subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("libasan.so", "libstdc++.so")
    ]
    variables = {
        # Python keeps what it allocates to its end, which is no leak of ours
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:abort_on_error=1",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1:abort_on_error=1",
        "LD_PRELOAD": " ".join(libraries),
        "PYTHONMALLOC": "malloc",
    }
    return str(Path(environment) / "bin" / "python"), variables


class Run:
    """All processes of a run and what they said."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.results: list[dict[str, Any]] = []
        self.findings: list[dict[str, Any]] = []
        self.outcomes: collections.Counter[str] = collections.Counter()
        self.mutants = 0
        self.slowest: dict[str, Any] = {"cpu_seconds": 0.0}
        self.largest: dict[str, Any] = {"memory": 0}
        self.sanitized = False
        self.failure: str | None = None
        self.restarts = -args.workers
        self._lock = threading.Lock()
        self._numbers = iter(range(args.first, args.first + args.count))
        self._progress = tqdm(total=None if args.bombs else args.count, unit="file", disable=None)
        self._started = time.perf_counter()

    def work(self) -> None:
        """One process after the other, until no numbers are left."""
        process = None
        while True:
            with self._lock:
                number = next(self._numbers, None)
            if number is None:
                break
            if process is None:
                try:
                    process = self._start()
                except RuntimeError as error:
                    self.failure = str(error)
                    return
            if self.args.bombs and number >= len(process.bombs):
                break
            result = process.ask(number)
            if "outcome" not in result:
                process = None
            self._take(result)
        if process is not None:
            process.close()

    def _start(self) -> "Process":
        args = self.args
        python, variables = sanitized(args.sanitized) if args.sanitized else (sys.executable, {})
        command = [
            python,
            "-m",
            "tests.fuzz.worker",
            "--seed",
            str(args.seed),
            "--max-pixels",
            str(args.max_pixels),
            "--cpu-seconds",
            str(args.cpu_seconds),
            "--memory",
            str(0 if args.sanitized else args.memory * 2**20),
        ]
        flags = {"--bombs": args.bombs, "--streams": args.streams, "--restore": args.restore}
        command += [flag for flag, wanted in flags.items() if wanted]
        process = Process(command, os.environ | variables)
        with self._lock:
            self.restarts += 1
            self.sanitized = process.sanitized
        return process

    def _take(self, result: dict[str, Any]) -> None:
        with self._lock:
            self._progress.update()
            if result["finding"]:
                self.findings.append(result)
                self._keep(result)
                self._progress.write(json.dumps(result), file=sys.stderr)
            if "outcome" not in result:
                return
            if self.args.bombs:
                self.results.append(result)
            self.outcomes.update(result.get("outcomes", [result["outcome"]]))
            self.mutants += 1
            if result["cpu_seconds"] > self.slowest["cpu_seconds"]:
                self.slowest = result
            if result["memory"] > self.largest["memory"]:
                self.largest = result

    def _keep(self, result: dict[str, Any]) -> None:
        # only here: a worker that dies of a mutant must not take this process with it
        from tests.fuzz import bombs, mutator, streams

        self.args.out.mkdir(parents=True, exist_ok=True)
        if self.args.streams:
            # one after another, as VideoReader takes them
            jpeg = b"".join(file.jpeg for file in streams.make(self.args.seed, result["number"]).files)
        elif self.args.bombs:
            jpeg = list(bombs.make(self.args.max_pixels).values())[result["number"]]
        else:
            jpeg = mutator.make(self.args.seed, result["number"]).jpeg
        stem = self.args.out / f"{'bomb' if self.args.bombs else self.args.seed}-{result['number']}"
        stem.with_suffix(".jpg").write_bytes(jpeg)
        stem.with_suffix(".json").write_text(json.dumps(result, indent=2))

    def summary(self) -> dict[str, Any]:
        """What is printed."""
        self._progress.close()
        kinds = ("key", "patch", "follower", "ordinary") if self.args.streams else ("region", "ordinary")
        accepted = {kind: self.outcomes.pop(kind, 0) for kind in kinds}
        seconds = time.perf_counter() - self._started
        about = ("number", "seed", "steps", "seconds", "cpu_seconds", "memory", "bytes", "outcome")
        return {
            "mutants": self.mutants,
            "files": sum(self.outcomes.values()) + sum(accepted.values()),
            "seed": self.args.seed,
            "sanitized": self.sanitized,
            "minutes": round(seconds / 60, 1),
            "findings": len(self.findings),
            "processes that died": self.restarts,
            "accepted": accepted,
            "errors": dict(self.outcomes.most_common()),
            "slowest": {key: self.slowest[key] for key in about if key in self.slowest},
            "most memory": {key: self.largest[key] for key in about if key in self.largest},
        }


class Process:
    """A worker. sanitized: whether its native part has sanitizers. bombs: names of those it has."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self._said = b""
        self._reader = threading.Thread(target=self._read_errors, daemon=True)
        self._reader.start()
        ready = self._line(WALL_SECONDS)
        if ready is None:
            self._process.kill()
            self._process.wait()
            self._reader.join(5)
            raise RuntimeError(f"a worker does not start: {self._said.decode(errors='replace')[-3000:]}")
        self.sanitized, self.bombs = ready["sanitized"], ready["bombs"]

    def _read_errors(self) -> None:
        for line in self._process.stderr or ():
            self._said = (self._said + line)[-20_000:]

    def _line(self, seconds: float) -> dict[str, Any] | None:
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], seconds)[0]:
            return None
        line = self._process.stdout.readline()
        return json.loads(line) if line else None

    def ask(self, number: int) -> dict[str, Any]:
        """The worker's result for a number; without "outcome" where it died of it, or had to be ended."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"%d\n" % number)
        self._process.stdin.flush()
        result = self._line(WALL_SECONDS)
        if result is not None:
            return result
        waiting = self._process.poll() is None
        try:
            code = self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._reader.join(5)
        said = self._said.decode(errors="replace")
        if code == -signal.SIGPROF:
            what = "took longer than its processor time"
        elif waiting and code == -signal.SIGKILL:
            what = f"nothing for {WALL_SECONDS} s"
        else:
            what = f"crash, exit code {code}"
        return {"number": number, "finding": f"{what}\n{said[-6000:]}"}

    def close(self) -> None:
        """End the worker."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)


if __name__ == "__main__":
    sys.exit(main())

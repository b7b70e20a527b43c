"""Run one function over many values, in order: in processes of this machine, or on Ray.

    with open_engine("local", workers=4) as engine:
        for result in engine.run(function, values):
            ...

The function is at the top of a module, so that other processes find it by its name. It depends on its argument alone,
so that both engines give the same results. A process keeps what it has loaded from one value to the next
(functools.cache).
"""

import contextlib
import os
from collections.abc import Iterator

from server.engines.engine import Engine, Start, WorkerDiedError
from server.engines.local import LocalEngine
from server.engines.ray import RayEngine

__all__ = ["ENGINES", "Engine", "LocalEngine", "RayEngine", "WorkerDiedError", "open_engine"]

ENGINES = ("local", "ray")
# libraries read these variables when they are loaded
THREAD_VARIABLES = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "VIPS_CONCURRENCY")


@contextlib.contextmanager
def open_engine(name: str, workers: int | None = None, start: Start | None = None) -> Iterator[Engine]:
    """Open an engine, and close it at the end of the block.

    Args:
        name: one of ENGINES.
        workers: number of processes, of one thread each. None: one a core, or as many as a Ray cluster has room for.
        start: function at the top of a module. Every process calls it before its first value.

    Raises:
        ConfigError: Ray is not installed, or can't be reached at RAY_ADDRESS.
    """
    for variable in THREAD_VARIABLES:
        os.environ.setdefault(variable, "1")
    engine = RayEngine(workers, start) if name == "ray" else LocalEngine(workers or os.cpu_count() or 1, start)
    with contextlib.closing(engine):
        yield engine

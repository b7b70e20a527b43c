"""Tasks in processes of their own: what hangs is ended, what has ended is started again, and no frame is lost to it."""

import concurrent.futures
import contextlib
import itertools
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import requests

from rjpeg.errors import ConfigError, ModelError
from server.processing import task_pool, task_process
from server.processing.task import load_task
from server.processing.task_config import PythonTask, TfliteTask
from server.processing.task_pool import TaskPool
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]
NUMBERS = itertools.count()
FRAME = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)

TASK = """
import atexit, ctypes, os, re, signal, subprocess, sys, threading, time, zlib
from pathlib import Path

kept = []

def look(frame, meta):
    Path(f"{__file__}.{os.getpid()}").touch()
    what = meta["camera"]
    if what == "sleeps":
        time.sleep(60)
    if what == "loops":
        while True:
            pass
    if what == "holds-lock":
        ctypes.PyDLL(None).sleep(60)
    if what == "backtracks":
        re.match("(a+)+$", 50 * "a" + "b")
    if what == "stops":
        os.kill(os.getpid(), signal.SIGSTOP)
    if what == "SIGSEGV":
        ctypes.string_at(0)
    if what == "SIGKILL":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "SIGABRT":
        os.abort()
    if what == "exit code 3":
        os._exit(3)
    if what == "exit code 0":
        os._exit(0)
    if what == "closes":
        os.closerange(3, 1000)
        time.sleep(60)
    if what == "sys.exit":
        sys.exit(3)
    if what == "raises":
        raise ValueError("no such thing")
    if what == "huge":
        return "x" * 10**6
    if what == "largest":
        return "x" * 65534
    if what == "a signal without a name":
        os.kill(os.getpid(), 50)
    if what == "deep":
        answer = []
        for _ in range(5000):
            answer = [answer]
        return answer
    if what == "draws":
        frame[:] = 0
    if what == "prints":
        print("to standard output")
        os.system("echo from a program")
    if what == "keeps":
        kept.append(frame)
        return [zlib.crc32(each.tobytes()) for each in kept]
    if what == "programs":
        for _ in range(2):
            kept.append(subprocess.Popen(["sleep", "600"]))
        return [program.pid for program in kept]
    if what == "programs that end":
        program = subprocess.Popen(["sleep", "600"])
        program.terminate()
        return program.wait(10)
    if what == "leaves word":
        atexit.register(Path(meta["path"]).write_text, "gone")
    return {"pid": os.getpid(), "crc": zlib.crc32(frame.tobytes()), "meta": meta, "threads": threading.active_count()}
"""


@pytest.fixture
def task(tmp_path, monkeypatch):
    """Write a module with TASK or another text; gives its configuration."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(text=TASK):
        name = f"task_in_a_process_{next(NUMBERS)}"
        (tmp_path / f"{name}.py").write_text(text)
        return PythonTask(function=f"{name}:look")

    return write


def asked(folder, config):
    """The files of a task's processes that were asked about a frame since these files were deleted."""
    return list(folder.glob(f"{config.function.partition(':')[0]}.py.*"))


@pytest.fixture
def make(task, monkeypatch):
    """Make pools that are closed at the end, and whose processes are started again at once."""
    monkeypatch.setattr(task_pool, "MIN_PAUSE", 0.01)
    with contextlib.ExitStack() as stack:

        def maker(config=None, *, processes=1, seconds=20.0, **options):
            pool = TaskPool(config or task(), processes=processes, seconds=seconds, **options)
            stack.callback(pool.close)
            return pool

        yield maker


def meta(what="looks", **more):
    return {"camera": what, **more}


def lives(pid):
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def restarted(pool, pid):
    """Wait for another process than `pid` to answer; what it says."""
    until(lambda: pool.pids not in ([pid], []))
    answer = pool(FRAME, meta())
    assert answer["pid"] != pid
    return answer


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 1, 3), (150, 201, 3), (17, 1, 3), (480, 640, 3), (1500, 2001, 3), (3, 5, 3)])
def test_a_process_sees_the_frame_byte_for_byte_and_what_is_known_of_it(make, shape):
    pool = make()
    rng = np.random.default_rng(sum(shape))
    frame = rng.integers(0, 256, shape, np.uint8)
    known = meta("ÿ\u2028", sequence=2**53, capture_time=None)
    for seen in (frame, frame[::-1, ::-1], frame[: shape[0] // 2 + 1], np.asfortranarray(frame)):
        answer = pool(seen, known)
        assert answer["crc"] == zlib.crc32(seen.tobytes())
        assert answer["meta"] == known
        assert answer["pid"] != os.getpid()


def test_the_largest_answer_arrives(make):
    assert make()(FRAME, meta("largest")) == "x" * 65534


def test_a_frame_that_a_task_keeps_stays_as_it_was(make):
    pool = make()
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, shape, np.uint8) for shape in ((40, 50, 3), (40, 50, 3), (7, 3, 3))]
    for frame in frames:
        answer = pool(frame, meta("keeps"))
    assert answer == [zlib.crc32(frame.tobytes()) for frame in frames]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("raises", "ValueError: no such thing"),
        ("sys.exit", "SystemExit: 3"),
        ("huge", "the answer has 1000002 bytes as JSON, more than 65536"),
        ("deep", "RecursionError"),
        ("draws", "read-only"),
    ],
)
def test_a_call_that_fails_is_an_error_and_its_process_goes_on(make, what, text):
    pool = make()
    first = pool(FRAME, meta())
    answer = pool(FRAME, meta(what))
    assert list(answer) == ["error"]
    assert text in answer["error"]
    assert pool(FRAME, meta()) == first


@pytest.mark.slow
@pytest.mark.parametrize("what", ["sleeps", "loops", "holds-lock", "backtracks", "stops"])
def test_a_call_that_hangs_is_ended_and_the_next_frames_are_looked_at(make, what):
    reasons = []
    pool = make(seconds=0.3, restarted=reasons.append)
    pid = pool(FRAME, meta())["pid"]
    started = time.monotonic()
    assert pool(FRAME, meta(what)) == {"error": "the task took more than 0.3 s and was ended"}
    assert time.monotonic() - started < 2
    restarted(pool, pid)
    until(lambda: not lives(pid))
    assert reasons == ["timeout"]


@pytest.mark.slow
def test_the_log_says_where_a_call_hangs(make, capfd):
    make(seconds=0.3)(FRAME, meta("holds-lock"))
    assert re.search(r'File ".*task_in_a_process_\d+.py", line \d+ in look', capfd.readouterr().err)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "how"),
    [
        ("SIGSEGV", "was killed by SIGSEGV"),
        ("SIGKILL", "was killed by SIGKILL"),
        ("SIGABRT", "was killed by SIGABRT"),
        ("a signal without a name", "was killed by signal 50"),
        ("exit code 3", "ended with exit code 3"),
        ("exit code 0", "ended with exit code 0"),
        ("closes", "was killed by SIGKILL"),
    ],
)
def test_a_process_that_ends_is_told_of_and_started_again(make, what, how):
    reasons = []
    pool = make(restarted=reasons.append)
    pid = pool(FRAME, meta())["pid"]
    assert pool(FRAME, meta(what)) == {"error": f"the task's process {how}"}
    restarted(pool, pid)
    assert reasons == ["crash"]


@pytest.mark.slow
def test_a_frame_does_not_wait_for_a_process_to_start_unless_it_is_to(make, task, monkeypatch):
    monkeypatch.setattr(task_pool, "MIN_PAUSE", 0.5)
    config = task()
    for patience in (0.0, 20.0):
        pool = make(config, patience=patience)
        pool(FRAME, meta("exit code 3"))
        started = time.monotonic()
        answer = pool(FRAME, meta())
        if patience:
            assert "pid" in answer
        else:
            assert answer == {"error": "the task is being started again"}
            assert time.monotonic() - started < 0.4


@pytest.mark.slow
def test_while_one_process_hangs_the_other_goes_on(make, task, tmp_path):
    config = task()
    pool = make(config, processes=2, seconds=3.0)
    until(lambda: pool.running == 2)
    with concurrent.futures.ThreadPoolExecutor() as threads:
        hanging = threads.submit(pool, FRAME, meta("holds-lock"))
        until(lambda: asked(tmp_path, config))
        answers = [pool(FRAME, meta()) for _ in range(10)]
        assert not hanging.done()
        assert len({answer["pid"] for answer in answers}) == 1
        assert "took more than 3 s" in hanging.result()["error"]
    until(lambda: pool.running == 2)


@pytest.mark.slow
def test_no_more_calls_run_at_a_time_than_there_are_processes(make, task):
    pool = make(
        task("import os, time\ndef look(frame, meta):\n    time.sleep(0.02)\n    return os.getpid()"), processes=2
    )
    until(lambda: pool.running == 2)
    started = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: pool(FRAME, meta()), range(20)))
    assert time.monotonic() - started > 0.2
    assert set(answers) == set(pool.pids)


@pytest.mark.slow
def test_an_idle_process_that_is_killed_is_started_again(make):
    reasons = []
    pool = make(restarted=reasons.append)
    for number in range(1, 6):
        [pid] = pool.pids
        os.kill(pid, signal.SIGKILL)
        restarted(pool, pid)
        assert reasons == ["crash"] * number


@pytest.mark.slow
def test_starting_again_takes_longer_each_time_until_a_frame_is_answered(make, task, monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(task_pool, "MAX_PAUSE", 0.04)
    text = f"import os, pathlib\nword = pathlib.Path({str(tmp_path)!r}, 'fine')\n"
    text += "def look(frame, meta):\n    return 1 if word.exists() else os._exit(3)\n"
    pool = make(task(text), patience=30)
    for _ in range(5):
        assert pool(FRAME, meta()) == {"error": "the task's process ended with exit code 3"}
    (tmp_path / "fine").touch()
    assert pool(FRAME, meta()) == 1
    (tmp_path / "fine").unlink()
    pool(FRAME, meta())
    until(lambda: len(re.findall("started again", caplog.text)) == 6)
    assert re.findall(r"started again in (\S+) s", caplog.text) == ["0.01", "0.02", "0.04", "0.04", "0.04", "0.01"]


@pytest.mark.slow
def test_a_task_counts_as_failing_when_nothing_is_answered_for_long(make, task, tmp_path, monkeypatch):
    monkeypatch.setattr(task_pool, "FAILING_SECONDS", 2.0)
    config = task()
    pool = make(config, seconds=0.8, patience=20)
    assert pool.state == "running"
    states = []
    ends = time.monotonic() + 20
    with concurrent.futures.ThreadPoolExecutor() as threads:
        while "failing" not in states and time.monotonic() < ends:
            for file in asked(tmp_path, config):
                file.unlink()
            answer = threads.submit(pool, FRAME, meta("sleeps"))
            until(lambda: asked(tmp_path, config))
            states.append(pool.state)
            answer.result()
    # the first call is no failure yet
    assert [state for state, _ in itertools.groupby(states)] == ["running", "restarting", "failing"]
    assert "pid" in pool(FRAME, meta())
    assert pool.state == "running"


@pytest.mark.slow
def test_a_task_without_frames_is_no_failing_one(make, monkeypatch):
    monkeypatch.setattr(task_pool, "FAILING_SECONDS", 0.0)
    pool = make()
    pool(FRAME, meta("SIGKILL"))
    assert pool.state == "failing"
    until(lambda: pool.running == 1)
    assert pool.state == "running"


@pytest.mark.parametrize("text", ["1 / 0", "def look(:", "look = 3", "import nothing_of_this_name", ""])
def test_a_task_that_cannot_be_loaded_is_the_same_error_as_without_a_process(task, text):
    config = task(text)
    with pytest.raises(ConfigError) as expected:
        load_task(config)
    with pytest.raises(ConfigError, match=f"^{re.escape(str(expected.value))}$"):
        TaskPool(config, processes=2, seconds=1)


@pytest.mark.slow
def test_a_network_that_cannot_be_read_is_the_same_error_as_without_a_process(tmp_path):
    (tmp_path / "a.tflite").write_bytes(b"no network")
    for name in ("a.tflite", "nowhere.tflite"):
        config = TfliteTask(model=str(tmp_path / name))
        with pytest.raises(ModelError) as expected:
            load_task(config)
        with pytest.raises(ModelError, match=f"^{re.escape(str(expected.value))}$"):
            TaskPool(config, processes=1, seconds=1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import sys; sys.exit(3)", "the task's process ended with exit code 3 before it had loaded the task"),
        (
            "import os; os.kill(os.getpid(), 11)",
            "the task's process was killed by SIGSEGV before it had loaded the task",
        ),
        ("import time; time.sleep(60)", "loading the task took more than 1.5 s and was ended"),
    ],
)
def test_a_task_that_ends_or_hangs_while_it_loads_is_an_error(task, text, message, monkeypatch):
    monkeypatch.setattr(task_pool, "LOAD_SECONDS", 1.5)
    config = task(text)
    before = threading.active_count()
    with pytest.raises(Exception, match=message):
        TaskPool(config, processes=2, seconds=1)
    assert threading.active_count() == before


@pytest.mark.slow
def test_a_task_that_loads_no_more_is_tried_again(make, task, tmp_path, caplog):
    pool = make(task(f"import pathlib, os\nif pathlib.Path({str(tmp_path)!r}, 'broken').exists():\n    1 / 0\n{TASK}"))
    [pid] = pool.pids
    (tmp_path / "broken").touch()
    os.kill(pid, signal.SIGKILL)
    until(lambda: caplog.text.count("ZeroDivisionError") >= 3)
    assert pool.running == 0
    (tmp_path / "broken").unlink()
    restarted(pool, pid)


@pytest.mark.slow
def test_no_process_to_spare_is_an_error_at_the_start_and_later_tried_again(make, monkeypatch, task, caplog):
    pool = make()
    [pid] = pool.pids

    def refuse(*_, **__):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", refuse)
        with pytest.raises(ConfigError, match="no process for the task: BlockingIOError"):
            TaskPool(task(), processes=1, seconds=1)
        os.kill(pid, signal.SIGKILL)
        until(lambda: caplog.text.count("Resource temporarily unavailable") >= 2)
    restarted(pool, pid)


def test_what_a_task_prints_goes_to_standard_error(make, capfd):
    pool = make()
    assert "pid" in pool(FRAME, meta("prints"))
    pool.close()
    found = capfd.readouterr()
    assert found.out == ""
    assert "to standard output" in found.err
    assert "from a program" in found.err


def test_a_process_holds_no_files_and_sockets_of_the_service(make, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listening, (tmp_path / "locked").open("w") as file:
        listening.set_inheritable(True)
        os.set_inheritable(file.fileno(), True)
        pool = make()
        [pid] = pool.pids
        held = {int(path.name): str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()}
    assert held.pop(0) == "/dev/null"
    assert held.pop(1) == held.pop(2)
    kinds = sorted(re.sub(r"[\[(:].*", "", name) for name in held.values())
    assert kinds == ["/memfd", "socket"]


@pytest.mark.slow
def test_starting_again_leaves_no_file_open_and_no_process(make):
    pool = make()
    [pid] = pool.pids
    before, pids = len(list(Path("/proc/self/fd").iterdir())), [pid]
    for _ in range(8):
        os.kill(pids[-1], signal.SIGKILL)
        pids.append(restarted(pool, pids[-1])["pid"])
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    pool.close()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_signals_for_the_service_do_not_end_a_task_and_are_not_ignored_by_its_programs(make):
    pool = make()
    first = pool(FRAME, meta())
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(first["pid"], number)
    assert os.getpgid(first["pid"]) != os.getpgid(0), "Ctrl-C goes to a process group"
    assert pool(FRAME, meta()) == first
    assert pool(FRAME, meta("programs that end")) == -signal.SIGTERM


@pytest.mark.slow
@pytest.mark.parametrize("what", ["sleeps", "SIGKILL", "exit code 3"])
def test_what_a_task_has_started_ends_with_it(make, what):
    pool = make(seconds=1.0)
    pids = pool(FRAME, meta("programs"))
    assert all(map(lives, pids))
    pool(FRAME, meta(what))
    until(lambda: not any(map(lives, pids)))


def test_when_memory_is_short_the_task_goes_before_the_service(make):
    [pid] = make().pids
    assert int(Path(f"/proc/{pid}/oom_score_adj").read_text()) >= task_process.OOM_SCORE


@pytest.mark.slow
def test_closing_lets_an_idle_process_end_by_itself(make, tmp_path):
    pool = make(processes=2)
    assert "pid" in pool(FRAME, meta("leaves word", path=str(tmp_path / "word")))
    until(lambda: pool.running == 2)
    pids, started = pool.pids, time.monotonic()
    pool.close()
    assert time.monotonic() - started < task_pool.CLOSE_SECONDS
    assert (tmp_path / "word").read_text() == "gone"
    assert not any(map(lives, pids))
    assert "error" in pool(FRAME, meta())
    pool.close()


@pytest.mark.slow
def test_closing_ends_a_process_that_hangs(make, task, tmp_path):
    config = task()
    pool = make(config)
    [pid] = pool.pids
    with concurrent.futures.ThreadPoolExecutor() as threads:
        hanging = threads.submit(pool, FRAME, meta("holds-lock"))
        until(lambda: asked(tmp_path, config))
        time.sleep(0.2)
        started = time.monotonic()
        pool.close()
        assert time.monotonic() - started < task_pool.CLOSE_SECONDS + 1
        assert not lives(pid)
        assert hanging.result(1) == {"error": "the task's process was killed by SIGKILL"}


@pytest.mark.slow
def test_whatever_kills_hit_every_call_returns(make):
    pool = make(processes=2, seconds=5.0, patience=20)
    end = time.monotonic() + 6
    chance = random.Random(1)
    kills = 0

    def call(number):
        answers = []
        frame = np.full((50 + number, 60, 3), number, np.uint8)
        while time.monotonic() < end:
            answers.append(pool(frame, meta(sequence=number)))
            assert answers[-1].get("crc", zlib.crc32(frame.tobytes())) == zlib.crc32(frame.tobytes())
            assert "error" in answers[-1] or answers[-1]["meta"]["sequence"] == number, "another frame's answer"
        return answers

    with concurrent.futures.ThreadPoolExecutor(6) as threads:
        calls = [threads.submit(call, number) for number in range(6)]
        while time.monotonic() < end:
            time.sleep(chance.uniform(0, 0.2))
            if pids := pool.pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(chance.choice(pids), signal.SIGKILL)
                    kills += 1
        answers = [answer for each in calls for answer in each.result(30)]
    assert sum("crc" in answer for answer in answers) > 20
    assert kills > 5
    assert {answer["error"] for answer in answers if "error" in answer} <= {"the task's process was killed by SIGKILL"}


def mapped_files(pid):
    """Names of what a process has in its memory or open (proc(5))."""
    maps = [line.split(maxsplit=5)[-1].strip() for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
    return maps + [str(each.readlink()) for each in Path(f"/proc/{pid}/fd").iterdir()]


@pytest.mark.slow
@pytest.mark.parametrize("hangs", [False, True])
@pytest.mark.parametrize("how", ["SIGKILL", "os._exit"])
def test_processes_end_with_the_service_however_it_ends_and_leave_nothing(task, tmp_path, how, hangs):
    name = task().function
    program = f"""
import os, pathlib, sys, threading, time
sys.path.append({str(tmp_path)!r})
import numpy as np
from server.processing.task_config import PythonTask
from server.processing.task_pool import TaskPool
pool = TaskPool(PythonTask(function={name!r}), processes=2, seconds=60)
while pool.running < 2:
    time.sleep(0.01)
if {hangs}:
    for _ in range(2):
        threading.Thread(target=pool, args=[np.ones((480, 640, 3), np.uint8), {{"camera": "holds-lock"}}],
                         daemon=True).start()
    while len(list(pathlib.Path({str(tmp_path)!r}).glob("*.py.*"))) < 2:
        time.sleep(0.01)
    time.sleep(0.2)
print(*pool.pids, flush=True)
sys.stdin.read()
os._exit(3)
"""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert len(pids) == 2
        assert all(map(lives, pids))
        # memory without a name can't be left behind; what other programs have there is none of our concern
        assert not any(name.startswith("/dev/shm/") for pid in (process.pid, *pids) for name in mapped_files(pid))
        if how == "SIGKILL":
            process.kill()
        process.stdin.close()
        process.wait(10)
        until(lambda: not any(map(lives, pids)), 2)


# --- a service ---------------------------------------------------------------------------------------------


@pytest.fixture
def serve(start, tmp_path):
    """Start a service with the task of TASK."""

    def starter(*, seconds=1.0, text=TASK, **options):
        (tmp_path / "misbehaves.py").write_text(text)
        (tmp_path / "server.yaml").write_text(
            f"decoding: {{task_seconds: {seconds}}}\ntask: {{kind: python, function: 'misbehaves:look'}}\n"
        )
        environment = {"PYTHONPATH": str(tmp_path)}
        return start("--config", tmp_path / "server.yaml", data=tmp_path / "data", environment=environment, **options)

    starter.folder = tmp_path
    return starter


def send(service, jpeg, camera):
    """Send a frame; the record of it."""
    answer = requests.post(service.post_url(camera), data=jpeg, headers={"Content-Type": "image/jpeg"}, timeout=60)
    assert answer.status_code == 201, answer.text
    return answer.json()


def children(pid):
    """Processes that a process has started."""
    return [int(child) for each in Path(f"/proc/{pid}/task").glob("*/children") for child in each.read_text().split()]


def metric(service, name):
    return float(re.search(rf"^{re.escape(name)} (\S+)$", service.get("/metrics").text, re.MULTILINE)[1])


@pytest.mark.slow
def test_a_hanging_call_holds_up_neither_the_service_nor_the_task_for_other_cameras(serve, jpeg):
    service = serve(seconds=1.5)
    assert service.get("/readyz").json() == {"status": "ok", "pending": 0, "warnings": [], "task": "running"}
    assert metric(service, "rjpeg_task_running") == 1
    cameras = ("sleeps", "backtracks", "holds-lock")
    with concurrent.futures.ThreadPoolExecutor() as threads:
        for number, camera in enumerate(cameras):
            waits = []
            hanging = threads.submit(send, service, jpeg, camera)
            while not hanging.done():
                started = time.monotonic()
                assert service.get("/healthz").status_code == 200
                waits.append(time.monotonic() - started)
                time.sleep(0.05)
            assert max(waits) < 1, camera
            assert hanging.result()["results"] == {"error": "the task took more than 1.5 s and was ended"}
            # frames of others are stored at once, and looked at within seconds
            until(lambda: "pid" in send(service, jpeg, "other")["results"], 10)
            assert metric(service, 'rjpeg_task_restarts_total{reason="timeout"}') == number + 1
    assert metric(service, 'rjpeg_task_restarts_total{reason="crash"}') == 0
    assert metric(service, "rjpeg_task_errors_total") >= len(cameras)
    assert service.get("/readyz").json()["task"] == "running"
    for camera in (*cameras, "other"):
        for record in service.frames(camera):
            assert service.jpeg(record) == jpeg
    started = time.monotonic()
    assert service.stop() == 0
    assert time.monotonic() - started < 5


@pytest.mark.slow
def test_a_crash_of_the_task_is_told_counted_and_over_within_seconds(serve, jpeg):
    service = serve()
    assert send(service, jpeg, "SIGSEGV")["results"] == {"error": "the task's process was killed by SIGSEGV"}
    assert send(service, jpeg, "other")["results"] == {"error": "the task is being started again"}
    assert service.get("/readyz").json()["task"] == "restarting"
    assert metric(service, "rjpeg_task_running") == 0
    until(lambda: "pid" in send(service, jpeg, "other")["results"])
    assert metric(service, 'rjpeg_task_restarts_total{reason="crash"}') == 1
    assert "in look" in "".join(service.messages), "faulthandler says where"


@pytest.mark.slow
def test_what_a_task_prints_is_no_record_of_a_frame(serve, jpeg):
    service = serve()
    assert "pid" in send(service, jpeg, "prints")["results"]
    service.stop()
    assert [record["camera"] for record in service.records()] == ["prints"]
    assert "to standard output\n" in service.messages


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_service_leaves_no_process_of_its_task(serve, jpeg, number):
    service = serve(seconds=60)
    pid = send(service, jpeg, "other")["results"]["pid"]
    if number == signal.SIGKILL:

        def hang():
            with contextlib.suppress(requests.RequestException):
                send(service, jpeg, "holds-lock")

        threading.Thread(target=hang, daemon=True).start()
        until(lambda: service.get("/healthz").json()["pending"] == 1)
    service.stop(number)
    until(lambda: not lives(pid), 2)


@pytest.mark.slow
@pytest.mark.release
def test_readiness_ends_while_the_task_does_not_answer_and_frames_are_stored_all_the_same(serve, jpeg):
    crash = "import os\nif os.path.exists('{0}'):\n    os._exit(3)\ndef look(frame, meta):\n    return 1\n"
    service = serve(text=crash.format(Path(serve.folder, "broken")))
    Path(serve.folder, "broken").touch()
    for pid in children(service.process.pid):
        os.kill(pid, signal.SIGKILL)
    until(lambda: service.get("/readyz").status_code == 503, 45)
    assert service.get("/readyz").json() == {"error": "the task doesn't answer; frames are stored without its results"}
    assert send(service, jpeg, "other")["results"] == {"error": "the task is being started again"}
    assert service.get("/healthz").status_code == 200
    Path(serve.folder, "broken").unlink()
    until(lambda: service.get("/readyz").status_code == 200, 45)
    assert send(service, jpeg, "other")["results"] == 1


@pytest.mark.slow
def test_a_file_on_which_the_task_hangs_costs_the_others_nothing(decode, tmp_path, task, jpeg):
    text = "import ctypes\ndef look(frame, meta):\n"
    text += "    return ctypes.PyDLL(None).sleep(60) if meta['width'] == 7 else meta['width']\n"
    (tmp_path / "task.yaml").write_text(f"kind: python\nfunction: {task(text).function}\n")
    for number in range(6):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg)
    (tmp_path / "2.jpg").write_bytes(cv2.imencode(".jpg", np.zeros((5, 7, 3), np.uint8))[1].tobytes())
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    options = ("--task", tmp_path / "task.yaml", "--task-seconds", 1)
    for workers in (1, 2):
        result = decode(tmp_path, *options, "--workers", workers, env=environment)
        assert result.returncode == 0
        answers = [json.loads(line)["task"] for line in result.stdout.splitlines()]
        hung = {"error": "the task took more than 1 s and was ended"}
        assert answers == [201, 201, hung, 201, 201, 201]

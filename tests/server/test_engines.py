"""One function over many things, on processes and on Ray; and `decode.py` on both, over files on disk and on S3."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import requests
import s3fs
from moto.server import ThreadedMotoServer

import rjpeg
from rjpeg.errors import ConfigError, InputError
from server.engines import LocalEngine, WorkerDiedError, open_engine
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]
# files of a stream: a key, followers, a patch and a follower of that
FOLLOWING = 6
BUCKET = "frames"
PATIENCE = 20


def double(number):
    return 2 * number


def fail_at_three(number):
    if number == 3:
        raise InputError("three is not allowed")
    return number


def die_at_three(number):
    if number == 3:
        os._exit(9)
    return number


def environment_of(_):
    return os.getpid(), os.environ.get("STARTED"), os.environ.get("OMP_NUM_THREADS")


def start():
    os.environ["STARTED"] = os.environ.get("STARTED", "") + "once"


def slowly(folder):
    (Path(folder) / f"{os.getpid()}.pid").touch()
    time.sleep(60)


class TestLocalProcesses:
    @pytest.mark.slow
    @pytest.mark.parametrize("workers", [1, 2])
    def test_results_come_in_the_order_of_the_things(self, workers):
        with open_engine("local", workers) as engine:
            assert list(engine.run(double, range(50), chunk=3)) == list(range(0, 100, 2))
            assert list(engine.run(double, [], chunk=3)) == []

    @pytest.mark.slow
    @pytest.mark.parametrize("workers", [1, 2])
    def test_an_error_is_raised_after_the_results_before_it(self, workers):
        with open_engine("local", workers) as engine:
            results = engine.run(fail_at_three, range(100), chunk=5)
            assert [next(results) for _ in range(3)] == [0, 1, 2]
            with pytest.raises(InputError, match="three is not allowed"):
                next(results)

    @pytest.mark.slow
    def test_a_worker_that_dies_is_told(self):
        with open_engine("local", 2) as engine, pytest.raises(WorkerDiedError, match="a worker process died"):
            list(engine.run(die_at_three, range(10)))

    @pytest.mark.slow
    def test_a_process_is_started_once_and_has_one_thread(self):
        with open_engine("local", 2, start) as engine:
            found = set(engine.run(environment_of, range(40)))
        assert {(started, threads) for _, started, threads in found} == {("once", "1")}
        assert os.getpid() not in {process for process, _, _ in found}

    @pytest.mark.slow
    def test_what_is_not_taken_is_not_run(self):
        class Endless:
            def __len__(self):
                return 10**9

            def __getitem__(self, part):
                assert part.start < 1000, "no more is read than is needed soon"
                return range(*part.indices(10**9))

        with open_engine("local", 2) as engine:
            results = engine.run(double, Endless(), chunk=10)
            assert [next(results) for _ in range(100)] == list(range(0, 200, 2))
            results.close()

    @pytest.mark.slow
    def test_processes_end_with_the_one_that_started_them_however_that_ends(self, tmp_path):
        script = (
            f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(Path(__file__).parent)!r}]\n"
            "import test_engines, server.engines\n"
            "if __name__ == '__main__':\n"
            "    with server.engines.open_engine('local', 2) as engine:\n"
            f"        list(engine.run(test_engines.slowly, [{str(tmp_path)!r}] * 2))\n"
        )
        (tmp_path / "script.py").write_text(script)
        program = subprocess.Popen([sys.executable, str(tmp_path / "script.py")])
        workers = until(lambda: len(found := list(tmp_path.glob("*.pid"))) == 2 and found, 60)
        program.kill()
        program.wait()
        until(lambda: not any(lives(int(each.stem)) for each in workers), PATIENCE)


def lives(process):
    """Whether a process is there, and not only its exit code."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


@pytest.fixture(scope="module")
def archive(tmp_path_factory, encoder, photograph, stream):
    """Twelve files of two sizes, of which one is broken, and then those of a stream."""
    folder = tmp_path_factory.mktemp("archive")
    for number in range(12):
        frame = np.roll(photograph, 5 * number, axis=1)[: 150 - 17 * (number % 2)]
        (folder / f"{number}.jpg").write_bytes(encoder.encode(frame, quality=30 + 5 * number))
    (folder / "7.jpg").write_bytes((folder / "7.jpg").read_bytes()[:500])
    for number, file in enumerate(stream.files[:FOLLOWING], 12):
        (folder / f"{number}.jpg").write_bytes(file.jpeg)
    return folder


def lines(result):
    """The JSON lines, without the times that decoding took, which no two runs share."""
    records = [json.loads(line) for line in result.stdout.splitlines()]
    for record in records:
        record.pop("ms", None)
    return records


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def bucket_contents(url, folder):
    client = s3fs.S3FileSystem(endpoint_url=url, key="test", secret="test", skip_instance_cache=True)
    return {path.rpartition("/")[2]: client.cat_file(path) for path in client.find(f"{BUCKET}/{folder}")}


@pytest.fixture(scope="module")
def plainly(archive, tmp_path_factory, decode):
    """What one process makes of the archive: its lines and pictures."""
    out = tmp_path_factory.mktemp("plainly") / "out"
    result = decode(archive, "--out", out, "--workers", "1")
    assert result.returncode == 1
    assert result.stderr.endswith("error: 1 not decoded or not written; their lines say why\n")
    return lines(result), contents(out), out


def same_lines(records, plain, old, new):
    """Whether lines are the same but for the folders in them."""
    text = json.dumps(plain)
    for before, after in zip(old, new, strict=True):
        text = text.replace(str(before), str(after))
    return json.dumps(records) == text


@pytest.mark.slow
def test_the_pictures_are_those_of_the_library_in_the_files_order(plainly, archive):
    records, pictures, _ = plainly
    count = 12 + FOLLOWING
    assert [Path(record["file"]).name for record in records] == [f"{number}.jpg" for number in range(count)]
    assert [number for number in range(count) if "error" in records[number]] == [7]
    assert len(pictures) == count - 1
    assert {record["kind"] for record in records[12:]} == {"key", "patch", "follower"}
    decoder = rjpeg.StreamDecoder()
    for name, data in sorted(pictures.items(), key=lambda item: int(item[0].removesuffix(".png"))):
        expected = decoder.decode((archive / name).with_suffix(".jpg").read_bytes())
        np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), expected)


@pytest.mark.slow
def test_two_processes_give_the_same_bytes_as_one(plainly, archive, tmp_path, decode):
    result = decode(archive, "--out", tmp_path / "out", "--workers", "2")
    records, pictures, out = plainly
    assert result.returncode == 1
    assert same_lines(lines(result), records, [out], [tmp_path / "out"])
    assert contents(tmp_path / "out") == pictures


@pytest.fixture(scope="module")
def s3(archive):
    """Variables of a program that has S3, and its URL; the archive is in the bucket's folder in/."""
    server = ThreadedMotoServer(port=0)
    server.start()
    _, port = server.get_host_and_port()
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    url = f"http://127.0.0.1:{port}"
    bucket = f"{url}/{BUCKET}"
    things = {f"in/{path.name}": path.read_bytes() for path in archive.iterdir()}
    things |= {"in/older/1.jpg": b"of a folder within", "empty/0.jpg": b""}
    requests.put(bucket, timeout=30).raise_for_status()
    for key, content in things.items():
        requests.put(f"{bucket}/{key}", content, timeout=30).raise_for_status()
    yield os.environ | keys | {"AWS_ENDPOINT_URL": url}, url
    server.stop()


@pytest.mark.slow
def test_s3_is_read_and_written_as_a_disk_is(plainly, archive, s3, decode):
    environment, url = s3
    records, pictures, out = plainly
    result = decode(f"s3://{BUCKET}/in", "--out", f"s3://{BUCKET}/out", "--workers", "2", env=environment)
    assert result.returncode == 1
    assert same_lines(lines(result), records, [archive, out], [f"s3://{BUCKET}/in", f"s3://{BUCKET}/out"])
    assert bucket_contents(url, "out") == pictures


@pytest.mark.slow
@pytest.mark.parametrize("number", [3, 12 + FOLLOWING - 1])
def test_one_file_of_s3_is_decoded_to_the_disk(plainly, s3, tmp_path, decode, number):
    result = decode(f"s3://{BUCKET}/in/{number}.jpg", "--out", tmp_path, env=s3[0])
    assert result.returncode == 0, result.stderr
    assert contents(tmp_path) == {f"{number}.png": plainly[1][f"{number}.png"]}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("in/99.jpg", "can't read s3://frames/in/99.jpg"),
        ("empty/0.jpg", "not a readable JPEG"),
    ],
)
def test_a_file_of_s3_that_is_not_there_or_empty_gets_a_line_that_says_so(place, message, s3, decode):
    result = decode(f"s3://{BUCKET}/{place}", env=s3[0])
    assert result.returncode == 1
    [record] = lines(result)
    assert message in record["error"]


@pytest.mark.slow
def test_file_urls_are_paths(plainly, archive, tmp_path, decode):
    assert decode(f"file://{archive}/3.jpg", "--out", f"file://{tmp_path}").returncode == 0
    assert contents(tmp_path) == {"3.png": plainly[1]["3.png"]}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        ("ray", ["{archive}", "--engine", "ray"], "--engine ray needs Ray: pip install --group ray"),
        ("s3fs", ["s3://frames/in"], "pip install --group s3"),
        (None, ["gopher2://frames/in"], "gopher2"),
        (None, ["s3://frames/in"], "can't read"),
    ],
)
def test_what_is_missing_is_named_on_one_line(module, arguments, message, archive, tmp_path, decode):
    if module is not None:
        (tmp_path / f"{module}.py").write_text(f"raise ImportError('No module named {module}')")
    nowhere = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "PYTHONPATH": str(tmp_path)}
    result = decode(*(each.format(archive=archive) for each in arguments), env=os.environ | keys | nowhere)
    assert result.returncode == 1
    assert result.stdout == ""
    [line] = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line


@pytest.mark.slow
def test_standard_input_is_not_for_ray(decode):
    assert decode("-", "--engine", "ray").returncode == 2


@pytest.mark.parametrize("engine", ["local", pytest.param("ray", marks=pytest.mark.release)])
def test_ctrl_c_ends_all_processes_and_leaves_whole_pictures(engine, archive, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(3000):
        (folder / f"{number}.jpg").symlink_to(archive / f"{number % 7}.jpg")
    command = [sys.executable, "server/decode.py", folder, "--out", tmp_path / "out", "--workers", "2"]
    program = subprocess.Popen(
        [*map(str, command), "--engine", engine],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # what runs in a shell's background, as these tests may, ignores it
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        program.stdout.readline()
        # as a terminal does: to the program and all it has started
        os.killpg(program.pid, signal.SIGINT)
        _, messages = program.communicate(timeout=60)
    finally:
        program.kill()
    assert program.returncode == 130
    assert "Traceback" not in messages
    until(lambda: not any(lives(process) for process in in_session(program.pid)), PATIENCE)
    made = list((tmp_path / "out").iterdir())
    assert 0 < len(made) < 3000
    assert all(each.suffix == ".png" for each in made)


def in_session(leader):
    """The processes that a program started in a session of its own, and theirs."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == leader:
                found.append(int(folder.name))
    return found


@pytest.mark.slow
class TestRay:
    @pytest.mark.release
    def test_two_workers_give_the_same_bytes_as_one_process(self, plainly, archive, tmp_path, decode):
        result = decode(archive, "--out", tmp_path / "out", "--engine", "ray", "--workers", "2")
        records, pictures, out = plainly
        assert result.returncode == 1
        assert result.stderr == "error: 1 not decoded or not written; their lines say why\n"
        assert same_lines(lines(result), records, [out], [tmp_path / "out"])
        assert contents(tmp_path / "out") == pictures

    @pytest.mark.release
    def test_s3_goes_to_s3(self, plainly, archive, s3, decode):
        environment, url = s3
        records, pictures, out = plainly
        places = [f"s3://{BUCKET}/in", f"s3://{BUCKET}/ray"]
        result = decode(places[0], "--out", places[1], "--engine", "ray", "--workers", "2", env=environment)
        assert result.returncode == 1
        assert same_lines(lines(result), records, [archive, out], places)
        assert bucket_contents(url, "ray") == pictures

    @pytest.mark.release
    def test_a_cluster_of_two_machines_is_found_by_its_address_and_sent_what_it_lacks(
        self, plainly, archive, tmp_path, decode
    ):
        with cluster(tmp_path) as variables:
            result = decode(archive, "--out", tmp_path / "out", "--engine", "ray", env=os.environ | variables)
        records, pictures, out = plainly
        assert result.returncode == 1, result.stderr
        assert same_lines(lines(result), records, [out], [tmp_path / "out"])
        assert contents(tmp_path / "out") == pictures

    @pytest.mark.release
    def test_it_works_from_any_folder(self, archive, tmp_path):
        command = [sys.executable, str(ROOT / "server" / "decode.py"), str(archive / "3.jpg"), "--engine", "ray"]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert result.returncode == 0, result.stderr

    def test_an_address_where_nobody_is_ends_with_one_line(self, archive, decode):
        result = decode(archive, "--engine", "ray", env=os.environ | {"RAY_ADDRESS": "127.0.0.1:9"})
        assert result.returncode == 1
        assert result.stderr.splitlines()[-1].startswith("error: Ray can't be reached at RAY_ADDRESS=127.0.0.1:9")
        assert "Traceback" not in result.stderr

    @pytest.mark.release
    def test_workers_that_die_are_told(self):
        script = (
            f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(Path(__file__).parent)!r}]\n"
            "import test_engines, server.engines, rjpeg.errors\n"
            "with server.engines.open_engine('ray', 2) as engine:\n"
            "    try:\n"
            "        list(engine.run(test_engines.die_at_three, range(10)))\n"
            "    except server.engines.WorkerDiedError as error:\n"
            "        told = error\n"
            "print('told:', told)\n"
            "with server.engines.open_engine('ray', 2) as engine:\n"
            "    try:\n"
            "        numbers = []\n"
            "        for number in engine.run(test_engines.fail_at_three, range(10)): numbers.append(number)\n"
            "    except rjpeg.errors.InputError as error:\n"
            "        told = error\n"
            "print(numbers, told)\n"
        )
        result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
        assert result.returncode == 0, result.stderr
        # what Ray has to say of it is on standard error
        death, error = result.stdout.splitlines()
        assert death.startswith("told: Ray gave up: ")
        assert error == "[0, 1, 2] three is not allowed"


@contextlib.contextmanager
def cluster(folder):
    """Two machines of Ray, that are this one, each with one core; they don't know the checkout."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token"}
    program = str(Path(sys.executable).with_name("ray"))
    # not among those that Ray gives its workers, 10002 to 19999
    port = next(port for port in iter(free_port, None) if port > 20000)
    common = [program, "start", "--num-cpus", "1", "--object-store-memory", "100000000", "--block"]
    machines = []
    try:
        for options in (["--head", f"--port={port}", "--include-dashboard=false"], [f"--address=127.0.0.1:{port}"]):
            with (folder / f"ray-{len(machines)}.log").open("w") as log:
                machines.append(
                    subprocess.Popen(
                        [*common, *options], cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
                    )
                )
            until(lambda: "Ray runtime started" in (folder / f"ray-{len(machines) - 1}.log").read_text(), 60)
        yield {"RAY_ADDRESS": f"127.0.0.1:{port}", "RAY_AUTH_MODE": "token"}
    finally:
        for machine in reversed(machines):
            # as if the plug was pulled: it takes long over any other end
            for process in in_session(machine.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            machine.wait(30)


def free_port():
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


def test_the_engine_of_one_worker_is_the_calling_process():
    engine = LocalEngine(1)
    assert [process for process, *_ in engine.run(environment_of, [0])] == [os.getpid()]
    engine.close()


@pytest.mark.slow
def test_ray_is_not_imported_unless_it_is_asked_for():
    script = "import sys; import server.decode, evaluate.__main__; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT).returncode == 0


def test_ray_that_is_missing_is_a_configuration_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match="pip install"), open_engine("ray"):
        pass

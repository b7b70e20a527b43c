"""Real databases and object storage for the tests of the store, and what these tests share."""

import collections
import contextlib
import datetime
import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from server.frames import ReceivedFrame
from server.store import Store
from server.store.tables import metadata

NOON = datetime.datetime(2026, 11, 23, 12, 0, 0, 123456, tzinfo=datetime.UTC)
SECOND = datetime.timedelta(seconds=1)
MEASURES = {"bytes": 10, "bpp": 0.01, "width": 201, "height": 150, "map_crc32": None, "ms": {"decode": 1.5}}
PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))

# ends the server if the tests are killed
UNTIL_INPUT_ENDS = 'exec 3<&0; "$@" </dev/null & cat <&3 >/dev/null; kill -QUIT $! 2>/dev/null; wait'


def received(
    camera: str = "gate", sequence: int | None = 0, capture_time: datetime.datetime = NOON, **changes: Any
) -> ReceivedFrame:
    """Return a frame whose content tells its camera, sequence and capture time."""
    content = f"{camera} {sequence} {capture_time.isoformat()} ".encode() * changes.pop("times", 20)
    values = {"jpeg": content, "metrics": None} | changes
    # a second later would be after the last possible time
    values.setdefault("received_time", capture_time if capture_time.year == 9999 else capture_time + SECOND)
    return ReceivedFrame(camera=camera, sequence=sequence, capture_time=capture_time, **values)


def crc(data: bytes) -> str:
    return f"{zlib.crc32(data):08x}"


class PostgreSQL:
    """A server of its own in a new folder, on loopback. If this user is root, another user runs it."""

    def __init__(self, *, durable: bool = True) -> None:
        self._durable = durable
        self._programs = PROGRAMS[-1]
        self._as_user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
        self._folder = Path(tempfile.mkdtemp(prefix="rjpeg-postgres-"))
        if self._as_user:
            shutil.chown(self._folder, "postgres")
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self.port = listening.getsockname()[1]
        self._numbers = itertools.count()
        self._process: subprocess.Popen[bytes] | None = None
        self._run("initdb", "-D", "data", "-A", "trust", "-U", "rjpeg", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync")

    def _run(self, program: str, *arguments: str) -> None:
        command = [*self._as_user, str(self._programs / program), *arguments]
        subprocess.run(command, cwd=self._folder, check=True, capture_output=True, timeout=120)

    def start(self) -> None:
        command = [*self._as_user, "sh", "-c", UNTIL_INPUT_ENDS, "sh"]
        command += [str(self._programs / "postgres"), "-D", "data", "-p", str(self.port)]
        options = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "max_connections": "60"}
        if not self._durable:
            options |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        self._process = subprocess.Popen(
            command,
            cwd=self._folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(subprocess.CalledProcessError):
                return self._run("pg_isready", "-h", "127.0.0.1", "-p", str(self.port), "-U", "rjpeg")
            assert time.monotonic() < deadline, "PostgreSQL did not start"
            time.sleep(0.1)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop the server: in order by SIGINT, as in a crash by SIGQUIT."""
        if self._process is None:
            return
        pid = int((self._folder / "data" / "postmaster.pid").read_text().split()[0])
        os.kill(pid, how)
        self._process.communicate(timeout=60)
        self._process = None

    def new_database(self) -> str:
        """Return the URL of a new schema. A new database would take a hundred times as much time and room."""
        name = f"test{next(self._numbers)}"
        url = f"postgresql+psycopg://rjpeg@127.0.0.1:{self.port}/postgres"
        engine = sa.create_engine(url)
        with engine.begin() as connection:
            connection.exec_driver_sql(f"CREATE SCHEMA {name}")
        engine.dispose()
        return f"{url}?options=-csearch_path%3D{name}"

    def remove(self) -> None:
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self._folder)


def own_postgresql() -> PostgreSQL:
    """Return a durable server for one test, not started yet. Skip the test if PostgreSQL is not installed."""
    try:
        return PostgreSQL()
    except IndexError:
        pytest.skip("PostgreSQL's programs are not installed (Debian: postgresql)")


def rows_of(store: Store, table: str) -> list[dict[str, Any]]:
    """Return all rows of a table."""
    with store.database.reading() as connection:
        return [dict(row) for row in connection.execute(sa.select(metadata.tables[table])).mappings()]


def stored_files(folder: Path) -> set[str]:
    """Return the keys of the files that are not set aside."""
    return {str(p.relative_to(folder)) for p in folder.glob("*/*T*/*") if p.is_file()}


def quarantined_files(folder: Path) -> set[str]:
    """Return the keys of the files that are set aside."""
    return {str(p.relative_to(folder / "quarantine")).split("/", 1)[1] for p in folder.glob("quarantine/*/*/*/*")}


def check_sums(store: Store) -> None:
    """Check that the counters agree with the frames, and that each frame has what it needs."""
    rows = rows_of(store, "frames")
    by_id = {row["id"]: row for row in rows}
    for row in rows:
        needed = {"key_frame": "key", "patch_frame": "patch"}
        bases = [by_id[row[name]] for name in needed if row[name] is not None]
        assert [base["kind"] for base in bases] == [kind for name, kind in needed.items() if row[name] is not None]
        assert {base["camera_id"] for base in bases} <= {row["camera_id"]}
    for camera in rows_of(store, "cameras"):
        own = [row for row in rows if row["camera_id"] == camera["id"]]
        times = [row["capture_time"] for row in own]
        assert camera["frames"] == len(own)
        assert camera["bytes"] == sum(row["bytes"] for row in own)
        assert camera["first_capture_time"] == min(times, default=None)
        assert camera["last_capture_time"] == max(times, default=None)
        assert (camera["last_frame"] is None) == (not own)
        assert camera["last_frame"] in [None, *(row["id"] for row in own)]
    expected = collections.defaultdict(lambda: [0, 0, 0, 0, 0])
    for row in rows:
        minute = expected[row["camera_id"], row["capture_time"] // 60_000_000]
        follows = row["kind"] in ("patch", "follower")
        values = (1, row["bytes"], row["pixels"], int(follows), row["bytes"] if follows else 0)
        for index, value in enumerate(values):
            minute[index] += value
    names = ("frames", "bytes", "pixels", "followers", "follower_bytes")
    found = {(row["camera_id"], row["minute"]): [row[name] for name in names] for row in rows_of(store, "minutes")}
    assert found == expected


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    if not PROGRAMS:
        pytest.skip("PostgreSQL's programs are not installed (Debian: postgresql)")
    if os.getuid() == 0 and shutil.which("runuser") is None:
        pytest.skip("PostgreSQL does not run as root, and there is no runuser")
    server = PostgreSQL(durable=False)
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.sqlite3"
    server: PostgreSQL = request.getfixturevalue("postgresql")
    return server.new_database()


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/store.sqlite3"


@pytest.fixture
def open_store(tmp_path: Path) -> Iterator[Callable[..., Store]]:
    """A function that opens a store with its files in the test's folder. The end of the test closes it."""
    with contextlib.ExitStack() as stack:

        def opener(url: str, files: str | None = None) -> Store:
            store = Store.open(url, files or str(tmp_path / "frames"))
            stack.callback(store.close)
            return store

        yield opener


@pytest.fixture
def store(open_store: Callable[..., Store], database_url: str) -> Store:
    return open_store(database_url)


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """URL of a bucket in a server that speaks S3's protocol."""
    server_module = pytest.importorskip("moto.server", reason="moto[s3,server] is not installed")
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        import s3fs

        s3fs.S3FileSystem(skip_instance_cache=True).mkdir("bucket")
        yield "s3://bucket/some/prefix"
    server.stop()


@pytest.fixture(params=["folder", "s3"])
def files_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty place for files."""
    if request.param == "folder":
        return str(tmp_path / "frames")
    return f"{request.getfixturevalue('s3')}/{request.node.name}"


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def make_url(request: pytest.FixtureRequest) -> Callable[[Path], str]:
    """A function that gives the URL of a new database, in a folder if it is SQLite's."""
    if request.param == "sqlite":
        return lambda folder: f"sqlite:///{folder}/store.sqlite3"
    server: PostgreSQL = request.getfixturevalue("postgresql")
    return lambda _: server.new_database()

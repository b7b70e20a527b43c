"""docs/recipes.md and docs/server-client.md do what they say: their blocks are run as they stand there.

Each runs as a program of its own; what it comes to is held against `rjpeg.Decoder`, one file at a time.
"""

import functools
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

import rjpeg
from tests import waiting
from tests.brokers import MOSQUITTO

ROOT = Path(__file__).resolve().parents[1]

wait_for = functools.partial(waiting.until, seconds=60)
SERVER, BROKER = "http://127.0.0.1:8000", '"127.0.0.1", 1883'


def blocks(name):
    """{(heading, language): text} of a document; "" is the heading of what comes before the first."""
    found = {}
    for section in re.split(r"^(?=## )", (ROOT / "docs" / name).read_text("utf-8"), flags=re.MULTILINE):
        heading = section.splitlines()[0].removeprefix("## ") if section.startswith("## ") else ""
        for language, text in re.findall(r"```(\w+)\n(.*?)```", section, re.DOTALL):
            assert (heading, language) not in found, "each of a kind has a section of its own"
            found[heading, language] = text
    return found


RECIPES = blocks("recipes.md")
CLIENT = blocks("server-client.md")


def run(text, folder, language="python", tail=""):
    """Run a block in a folder; its output."""
    (folder / "block").write_text(text + tail)
    command = {"python": [sys.executable, "block"], "sh": ["/bin/sh", "-eu", "block"]}[language]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONWARNINGS": "default"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def sent(tmp_path_factory):
    """A folder in which `sent` is what the document's first block makes."""
    folder = tmp_path_factory.mktemp("recipes")
    make_frames(RECIPES["", "sh"], "sent", folder)
    return folder


def make_frames(text, name, folder):
    """Run a block that makes the folder `name` there."""
    # the environment is the one that the test runs in, wherever that is
    make = f'make() {{ command make -C "{ROOT}" -o .venv/.ready run_python="{sys.executable}" "$@"; }}\n'
    run(make + at(text, f"--out {name}", f"--out {folder}/{name}"), folder, "sh")


@pytest.fixture(scope="module")
def frames(sent):
    """(40, 240, 320, 3): what the decoder makes of the files, one after another."""
    decoder = rjpeg.Decoder()
    return np.stack([decoder.decode(path.read_bytes()) for path in sorted((sent / "sent").iterdir())])


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "server", "--listen", "127.0.0.1:0", "--data", str(folder / "data")],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=log,
        )
    try:
        yield wait_for(lambda: re.search(r"^listening on (\S+)$", (folder / "log").read_text(), re.MULTILINE))[1]
    finally:
        process.terminate()
        process.wait(30)


def at(text, address, instead):
    """A block that talks to `instead`."""
    assert address in text
    return text.replace(address, instead)


def test_all_blocks_are_tested():
    tested = {
        ("", "sh"),
        ("Streams", "sh"),
        ("Streams", "python"),
        ("NumPy", "python"),
        ("tf.data", "python"),
        ("PyTorch", "python"),
        ("OpenCV", "python"),
        ("The server's API with curl", "sh"),
        ("The server's API with the Python client", "python"),
        ("MQTT", "python"),
    }
    assert set(RECIPES) == tested
    assert set(CLIENT) == {("From other programs", "sh"), ("From other programs", "python")}


@pytest.mark.slow
def test_streams(tmp_path):
    make_frames(RECIPES["Streams", "sh"], "stream", tmp_path)
    run(RECIPES["Streams", "python"], tmp_path, tail="np.save('numpy', batch)\n")
    decoder, bases, kinds = rjpeg.Decoder(), {}, []
    for path, frame in zip(sorted((tmp_path / "stream").iterdir()), np.load(tmp_path / "numpy.npy"), strict=True):
        jpeg = path.read_bytes()
        kind, identity, base = rjpeg.identify(jpeg)
        np.testing.assert_array_equal(frame, decoder.decode(jpeg, bases.get(base)))
        if kind != "follower":
            bases[identity] = decoder.base_of(jpeg, bases.get(base))
        kinds.append(kind)
    assert kinds.count("follower") > len(kinds) / 2


@pytest.mark.slow
def test_numpy(sent, frames):
    run(RECIPES["NumPy", "python"], sent, tail="np.save('numpy', batch)\n")
    np.testing.assert_array_equal(np.load(sent / "numpy.npy"), frames)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="needs TensorFlow")
def test_tf_data(sent, frames):
    tail = "import numpy as np; np.save('tf', np.concatenate([batch.numpy() for batch in dataset]))\n"
    said = run(RECIPES["tf.data", "python"], sent, tail=tail)
    assert "(16, 240, 320, 3) <dtype: 'uint8'>" in said
    np.testing.assert_array_equal(np.load(sent / "tf.npy"), frames[..., ::-1])


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")
def test_pytorch(sent, frames):
    tail = "    import numpy as np; np.save('torch', torch.cat(list(loader)).numpy())\n"
    said = run(RECIPES["PyTorch", "python"], sent, tail=tail)
    assert "torch.Size([16, 3, 240, 320]) torch.uint8" in said
    np.testing.assert_array_equal(np.load(sent / "torch.npy"), frames[..., ::-1].transpose(0, 3, 1, 2))


@pytest.mark.slow
def test_opencv(sent, frames):
    said = run(RECIPES["OpenCV", "python"], sent, tail="import numpy as np; np.save('motion', motion)\n")
    assert said == "40.0 frames, the first 320.0 wide\n"
    gray = [cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY).astype(int) for frame in frames]
    np.testing.assert_allclose(np.load(sent / "motion.npy"), np.abs(np.diff(gray, axis=0)).mean(axis=(1, 2)))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl(sent, frames, server):
    run(at(RECIPES["The server's API with curl", "sh"], SERVER, server), sent, "sh")
    files = sorted((sent / "sent").iterdir())
    camera, frame = (json.loads((sent / name).read_text()) for name in ("camera.json", "frame.json"))
    assert (camera["frames"], camera["bytes"]) == (40, sum(file.stat().st_size for file in files))
    assert (frame["sequence"], frame["bytes"]) == (39, files[-1].stat().st_size)
    assert (sent / "frame.jpg").read_bytes() == files[-1].read_bytes()
    np.testing.assert_array_equal(cv2.imread(str(sent / "frame.png")), frames[-1])
    assert cv2.imread(str(sent / "map.png")).shape == (240, 320, 3)


@pytest.mark.slow
def test_the_python_client(sent, frames, server):
    text = at(RECIPES["The server's API with the Python client", "python"], SERVER, server)
    said = run(text, sent, tail="np.save('quality', quality)\n")
    size = sum(file.stat().st_size for file in (sent / "sent").iterdir())
    assert said == f"40 frames, {size} bytes\n"
    for number in range(0, 40, 10):
        np.testing.assert_array_equal(np.load(sent / f"{number}.npy"), frames[number])
    last = max((sent / "sent").iterdir())
    np.testing.assert_allclose(
        np.load(sent / "quality.npy"), rjpeg.inspect(last.read_bytes())["quality_factors"], atol=0.01
    )


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_section_about_other_programs(sent, frames, server, tmp_path):
    shutil.copy(min((sent / "sent").iterdir()), tmp_path / "frame.jpg")
    said = run(at(CLIENT["From other programs", "sh"], SERVER, server), tmp_path, "sh")
    assert '"camera":"yard"' in said
    assert "event: heartbeat" in said
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "picture.png")), frames[0])
    facts = rjpeg.inspect((tmp_path / "frame.jpg").read_bytes())
    assert json.loads((tmp_path / "map.json").read_text())["levels"] == facts["quality_map"].tolist()
    said = run(at(CLIENT["From other programs", "python"], SERVER, server), tmp_path)
    assert said.endswith(f"{facts['bpp']:.3f} bpp None (240, 320, 3) {facts['quality_map'].shape}\n")


@pytest.mark.slow
@pytest.mark.skipif(MOSQUITTO is None, reason="needs the broker mosquitto (apt install mosquitto)")
def test_mqtt(sent, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / "mosquitto.conf").write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    (tmp_path / "block").write_text(at(RECIPES["MQTT", "python"], BROKER, f'"127.0.0.1", {port}'))
    broker = subprocess.Popen([MOSQUITTO, "-c", "mosquitto.conf"], cwd=tmp_path, stderr=subprocess.DEVNULL)
    payloads = {}

    def on_message(client, userdata, message):
        payloads[dict(message.properties.UserProperty)["sequence"]] = message.payload

    looker = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    looker.on_message = on_message
    recipe = None
    try:
        wait_for(lambda: answers(port))
        looker.connect("127.0.0.1", port)
        looker.subscribe("rjpeg/+/image", qos=1)
        looker.loop_start()
        with (tmp_path / "said").open("w") as said:
            recipe = subprocess.Popen([sys.executable, "block"], cwd=tmp_path, stdout=said)
        # the recipe is there when it writes the picture of a frame that is sent again and again until then
        wait_for(lambda: capture(port, "before", sent) and (tmp_path / "before-0.png").exists())
        payloads.clear()
        assert capture(port, "yard", sent)
        wait_for(lambda: (tmp_path / "said").read_text().count("yard ") == len(payloads) == 40)
    finally:
        looker.loop_stop()
        looker.disconnect()
        for process in filter(None, (recipe, broker)):
            process.terminate()
            process.wait(30)
    decoder = rjpeg.Decoder()
    assert len(payloads) == 40
    for sequence, payload in payloads.items():
        picture = cv2.imread(str(tmp_path / f"yard-{sequence}.png"))
        np.testing.assert_array_equal(picture, decoder.decode(payload))


def answers(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def capture(port, camera, sent):
    """Whether `capture.py` could send the folder's pictures (as a viewer shows them) to the broker."""
    command = [sys.executable, "device/capture.py", "--source", sent / "sent", "--camera-id", camera]
    command += ["--server", f"mqtt://127.0.0.1:{port}", *(["--frames", "1"] if camera == "before" else [])]
    return subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 0

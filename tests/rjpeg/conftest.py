"""Real pictures and the shipped model, shared by the library's tests."""

import dataclasses
import math
from pathlib import Path

import cv2
import pytest

import rjpeg

PICTURES = sorted((Path(__file__).parents[2] / "calibration_data").glob("*.jpg"))


@pytest.fixture(scope="session")
def model():
    return rjpeg.load_model()


@pytest.fixture(scope="session")
def encoder(model):
    return rjpeg.Encoder(model)


@pytest.fixture(scope="session")
def careful_encoder(model):
    """One that keeps as much detail of whole frames as of small pictures."""
    return rjpeg.Encoder(dataclasses.replace(model, negligible_energies=((math.inf, 0.01),)))


@pytest.fixture(scope="session")
def decoder(model):
    return rjpeg.Decoder(model)


@pytest.fixture(scope="session")
def photos():
    """Ten real photographs, 224x224, BGR."""
    photos = []
    for path in PICTURES[::3][:10]:
        frame = cv2.imread(str(path))
        scale = 240 / min(frame.shape[:2])
        frame = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        photos.append(frame[:224, :224].copy())
    return photos


@pytest.fixture(scope="session")
def photo(photos):
    return photos[0]

"""A model with changes, and what the encoder is told beside it: what `python -m train.tune` compares.

Of the model: model (another folder, the first of the changes), dead_zone, refinement (bits), detail (the negligible
energy; 0: sizes by rate alone), edges (up to which share of a step those of blocks are smoothed).

Of its tables: dc (factor on the DC step), table and chroma_table. A table is annex_k, annex_k_chroma, robidoux, flat,
mix:W for flat^W * robidoux^(1-W), slope:P, or blend:W for the model's own^(1-W) * Annex K's^W.

Of its map: luma, chroma (center levels), gain, window (0: absolute), fade.

Beside it: size (coding size as a fraction of the sides), refine, restore (0 or 1).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

import rjpeg
from rjpeg.errors import InputError
from train.known_tables import ANNEX_K_CHROMA, ANNEX_K_LUMA, ROBIDOUX

__all__ = ["Setting", "changed"]

MEAN_STEP = float(np.mean(ANNEX_K_LUMA))


@dataclasses.dataclass
class Setting:
    """A model with changes, and what the encoder is told beside it."""

    name: str
    model: rjpeg.Model
    size: float | None = None
    refine: bool = True
    restore: bool = False


def table_of(name: str, own: NDArray[np.float64], annex_k: tuple[int, ...]) -> NDArray[np.float64]:
    """Make a base table (64,). Raises InputError for an unknown name.

    own: the model's, annex_k: Annex K's, for the component. Of tables that stand for themselves, Annex K's luma table
    gives the mean, but for annex_k_chroma, which keeps its own.
    """
    robidoux = np.array(ROBIDOUX, float)
    shapes = {"annex_k": np.array(ANNEX_K_LUMA, float), "robidoux": robidoux, "flat": np.ones(64)}
    kind, _, number = name.partition(":")
    if name == "annex_k_chroma":
        return np.array(ANNEX_K_CHROMA, float)
    if kind == "blend":
        return own ** (1 - float(number)) * np.array(annex_k, float) ** float(number)
    if kind == "mix":
        table = robidoux ** (1 - float(number))
    elif kind == "slope":
        # Rises by a power of the distance from DC, so that only the lowest frequencies differ from the others.
        v, u = np.divmod(np.arange(64), 8)
        table = (1 + u + v) ** float(number)
    elif name in shapes:
        table = shapes[name]
    else:
        raise InputError(f"table is {name!r}, expected one of {', '.join(shapes)}, mix:W, slope:P or blend:W")
    return table * (MEAN_STEP / table.mean())


def changed(model: rjpeg.Model, text: str) -> Setting:
    """Change a model as `text` says, NAME=VALUE joined by commas. Raises InputError, ModelError."""
    setting = Setting(text, model)
    for change in filter(None, text.split(",")):
        name, _, value = change.partition("=")
        try:
            _change(setting, name, value)
        except InputError as error:
            raise InputError(f"--try {text}: {error}") from error
        except ValueError as error:
            raise InputError(f"--try {text}: {name} is {value!r}, expected a number") from error
        except KeyError as error:
            raise InputError(f"--try {text}: no setting has the name {name!r}") from error
    return setting


def _change(setting: Setting, name: str, value: str) -> None:
    """Change one thing of a setting. Raises KeyError for an unknown name, ValueError for no number."""
    model = setting.model
    if name == "model":
        setting.model = rjpeg.load_model(value)
    elif name in _TABLES:
        setting.model = dataclasses.replace(model, base_tables=_TABLES[name](model, value))
    elif name in _OF_MAP:
        quantizer = model.map_quantizer._replace(**_OF_MAP[name](model.map_quantizer, value))
        setting.model = dataclasses.replace(model, map_quantizer=quantizer)
    elif name == "detail":
        setting.model = dataclasses.replace(model, negligible_energies=((math.inf, float(value)),))
    elif name == "size":
        setting.size = float(value)
    elif name in ("refine", "restore"):
        if value not in ("0", "1"):
            raise InputError(f"{name} is {value!r}, expected 0 or 1")
        setattr(setting, name, value == "1")
    else:
        of_model: dict[str, Any] = dict.fromkeys(_OF_MODEL[name], float(value))
        setting.model = dataclasses.replace(model, **of_model)


Tables = tuple[NDArray[np.float64], NDArray[np.float64]]


def _luma_table(model: rjpeg.Model, value: str) -> Tables:
    """Change both tables alike."""
    luma, chroma = model.base_tables
    if value.startswith("blend"):
        return table_of(value, luma, ANNEX_K_LUMA), table_of(value, chroma, ANNEX_K_CHROMA)
    table = table_of(value, luma, ANNEX_K_LUMA)
    table[0] = luma[0] / luma[1] * table[1]
    return table, table


def _chroma_table(model: rjpeg.Model, value: str) -> Tables:
    luma, chroma = model.base_tables
    return luma, table_of(value, chroma, ANNEX_K_CHROMA)


def _dc(model: rjpeg.Model, value: str) -> Tables:
    luma, chroma = (table.copy() for table in model.base_tables)
    luma[0], chroma[0] = luma[1] * float(value), chroma[1] * float(value)
    return luma, chroma


_TABLES: dict[str, Callable[[rjpeg.Model, str], Tables]] = {
    "table": _luma_table,
    "chroma_table": _chroma_table,
    "dc": _dc,
}
_OF_MAP: dict[str, Callable] = {
    "luma": lambda quantizer, value: {"centers": (int(value), quantizer.centers[1])},
    "chroma": lambda quantizer, value: {"centers": (quantizer.centers[0], int(value))},
    "gain": lambda _, value: {"gain": float(value)},
    "window": lambda _, value: {"window": int(value) or None},
    "fade": lambda _, value: {"fade": float(value)},
}
_OF_MODEL = {
    "dead_zone": ("dead_zone",),
    "edges": ("edge_reach",),
    "refinement": ("refinement_bits", "frame_refinement_bits"),
}

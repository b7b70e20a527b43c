"""Region JPEG with one part left out or changed: the rows of the ablation, each of them one entry of VARIANTS.

A cached result depends on its own entry and on no other, so that a new row costs no old one.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from rjpeg._model import Model
from train.known_tables import ANNEX_K_CHROMA, ANNEX_K_LUMA

__all__ = ["FULL_SYSTEM", "REGION_JPEG", "VARIANTS", "Variant"]

FULL_SIZE = ((float("inf"), 1.0),)


@dataclass(frozen=True)
class Variant:
    """What is changed, in plain values.

    row: what the ablation's table says of it. model: other values for fields of `rjpeg.Model`. map_quantizer: the same
    for those of its `MapQuantizer`. encoder, decoder: options of `rjpeg.Encoder` and `rjpeg.Decoder`.
    side_map: what gives both ends their map free of charge in the predictor's place (`side_maps.attach`).
    """

    row: str
    model: Mapping[str, Any] = field(default_factory=dict)
    map_quantizer: Mapping[str, Any] = field(default_factory=dict)
    encoder: Mapping[str, Any] = field(default_factory=dict)
    decoder: Mapping[str, Any] = field(default_factory=dict)
    side_map: Literal["generator", "oracle"] | None = None

    def changed(self, model: Model) -> Model:
        """Return the model with the variant's values in it."""
        tables = self.model.get("base_tables")
        arrays = {} if tables is None else {"base_tables": tuple(np.array(table, np.float64) for table in tables)}
        map_quantizer = model.map_quantizer._replace(**self.map_quantizer)
        return dataclasses.replace(model, map_quantizer=map_quantizer, **{**self.model, **arrays})

    def settings(self) -> str:
        """Return all that is changed, without the name of the row."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "row"}
        return ", ".join(f"{name}={value!r}" for name, value in values.items() if value)


FULL_SYSTEM = Variant("full system: the predictor's map with refinements")
VARIANTS = {
    "region-jpeg": FULL_SYSTEM,
    "region-jpeg-restored": Variant("with restoration at the decoder", decoder={"restore": True}),
    "region-jpeg-flat": Variant("without the map: one level everywhere", map_quantizer={"gain": 0.0}),
    "region-jpeg-unrefined": Variant("without refinements: the predictor's map alone", encoder={"refine": False}),
    "region-jpeg-generator": Variant(
        "the generator's map on the side, free of charge", encoder={"refine": False}, side_map="generator"
    ),
    "region-jpeg-oracle": Variant(
        "oracle: this very picture's gradients, free of charge",
        map_quantizer={"gain": 1.0},
        encoder={"refine": False},
        side_map="oracle",
    ),
    "region-jpeg-full-size": Variant(
        "without coding sizes: full size always", model={"sizes_by_rate": FULL_SIZE, "sizes_by_quality": FULL_SIZE}
    ),
    "region-jpeg-annex-k": Variant("Annex K's tables", model={"base_tables": (ANNEX_K_LUMA, ANNEX_K_CHROMA)}),
    "region-jpeg-no-dead-zone": Variant("without dead zone, but to fill the rate", model={"dead_zone": 0.0}),
}
"""All variants by the name of their codec, in the order of the ablation's rows."""

REGION_JPEG = ("region-jpeg", "region-jpeg-restored", "region-jpeg-unrefined", "region-jpeg-flat")
"""Those that `python -m evaluate` offers beside the peers; it takes the others by name as well."""

"""Training through the codec: the map steers the differentiable twin, teachers look at what it decodes."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from rjpeg import tables
from rjpeg.codec import quantize_dc
from rjpeg.features import generator_features, predictor_features, rate_of
from train import rate, twin
from train.config import CodecConfig, Config
from train.dataset import coefficients
from train.disagreement import divergence, parameters
from train.photos import random_crop, read_photo, resize
from train.teachers import Teacher
from train.workers import ALONE, Workers, share


class Coding(keras.Model):
    """A map network followed by the codec's twin and the teachers; its loss is disagreement + price * bits.

    The price is what makes divergence ~ bits^-elasticity stand still at the batch's own rate: elasticity * mean
    disagreement / mean bits. So one network serves all rates, and only how bits are spread over the picture is
    learned, since the map is centered anyway.
    """

    def __init__(
        self, network: keras.Model, teachers: list[Teacher], codec: CodecConfig, elasticity: float, size: int
    ) -> None:
        super().__init__()
        self.network = network
        self.codec, self.elasticity, self.size = codec, elasticity, size
        # Behind a function, so that the frozen teachers are not saved with every epoch.
        self.built = True  # the network is; there is nothing else with weights
        self._teachers = lambda: teachers

    def call(self, inputs: dict[str, Any]) -> Any:
        # Batch normalization keeps its statistics: a batch here is small and of one rate.
        answer = self.network(inputs["features"], training=False)
        offsets = twin.centered_nearby(answer, self.codec.map_window)
        per_octave = self.codec.levels_per_octave
        centers = ops.convert_to_tensor(np.array(self.codec.center_levels, np.float32))
        levels = twin.round_half_up(offsets * (self.codec.map_gain * per_octave) + centers)
        levels = ops.clip(levels, 0, self.codec.levels - 1)
        decoded, quantized = twin.code(
            inputs["luma"], inputs["cb"], inputs["cr"], inputs["tables"], levels / per_octave, self.codec.dead_zone
        )
        enlarged = ops.clip(twin.resize(decoded, self.size, self.size), 0, 255)
        # Every teacher sees a part of the batch: as telling as all on all of it, for one teacher's time.
        parts = []
        for index, teacher in enumerate(self._teachers()):
            mine = slice(index, None, len(self._teachers()))
            answer_now = parameters(teacher.kinds, teacher(enlarged[mine], training=False))
            parts.append(divergence(teacher.kinds, inputs["clean"][str(index)], answer_now))
        nats = ops.mean(ops.concatenate(parts))
        bits = ops.mean(rate.bits(quantized))
        price = ops.stop_gradient(self.elasticity * nats / bits)
        self.add_loss(nats + price * bits)
        return answer


class CodingBatches:
    """Fresh random crops of the photos, `steps` batches an epoch; a batch has one coding size and one quality.

    Seed, epoch, number and worker decide what a batch holds, as in `train.dataset.Batches`.
    """

    def __init__(
        self,
        data: Path,
        photos: list[str],
        network: str,
        teachers: list[Teacher],
        config: Config,
        codec: CodecConfig,
        workers: Workers = ALONE,
    ) -> None:
        self._data, self._photos, self._network, self._teachers = data, photos, network, teachers
        self._config, self._codec, self._workers = config, codec, workers
        self.pictures = config.fine_tune.steps * config.fine_tune.batch
        self.start_epoch(0)

    def start_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return self._config.fine_tune.steps

    def __getitem__(self, number: int) -> tuple[dict[str, np.ndarray]]:
        settings, importance = self._config.fine_tune, self._config.importance
        seed = (self._config.seed, sum(self._network.encode()), self._epoch, number)
        rng = np.random.default_rng(seed)
        size = int(rng.choice(importance.coding_sizes))
        percents = [tables.percent_of_quality(quality) for quality in settings.quality]
        percent = float(np.exp(rng.uniform(*np.log(sorted(percents)))))
        chosen = share(self._workers, rng.choice(len(self._photos), settings.batch))
        names = [self._photos[index] for index in chosen]
        # Size and quality are the same for all workers; what follows is each one's own.
        rng = np.random.default_rng((*seed, self._workers.index))
        crops = np.stack(
            [
                random_crop(read_photo(self._data / name), importance.crop_size, importance.crop_area, rng)
                for name in names
            ]
        )
        clean = {}
        for index, teacher in enumerate(self._teachers):
            mine = slice(index, None, len(self._teachers))
            answer = teacher.predict_on_batch(crops[mine].astype(np.float32))
            clean[str(index)] = [ops.convert_to_numpy(part) for part in parameters(teacher.kinds, answer)]
        luma_table, chroma_table = self._tables(percent)
        parts = [coefficients(resize(crop, (size, size))) for crop in crops]
        return (
            {
                "features": np.stack([self._features(part, luma_table, chroma_table) for part in parts]),
                "luma": np.stack([part[0] for part in parts]),
                "cb": np.stack([part[1] for part in parts]),
                "cr": np.stack([part[2] for part in parts]),
                "tables": np.tile(np.stack([luma_table, chroma_table]).astype(np.float32), (len(crops), 1, 1)),
                "clean": clean,
            },
        )

    def _tables(self, percent: float) -> tuple[np.ndarray, np.ndarray]:
        """The DQT of a file that is coded at `percent` of the base tables on average."""
        finest = percent * 2.0 ** (-self._codec.center_levels[0] / self._codec.levels_per_octave)
        base = self._codec.base_tables
        return tables.scaled(np.array(base.luma), finest), tables.scaled(np.array(base.chroma), finest)

    def _features(self, part: tuple, luma_table: np.ndarray, chroma_table: np.ndarray) -> np.ndarray:
        step = rate_of(luma_table)
        if self._network == "generator":
            y, cb, cr = part
            return generator_features(y, cb, cr, step)
        steps = (int(luma_table[0]), int(chroma_table[0]), int(chroma_table[0]))
        y, cb, cr = (quantize_dc(component, dc) * dc for component, dc in zip(part, steps, strict=True))
        return predictor_features(y, cb, cr, step)

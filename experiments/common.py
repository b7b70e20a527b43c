"""What the experiments of this folder share: 303 held-back photos, teachers Lite0 and Lite1, Lite2 as the judge.

python -m experiments.NAME PHOTOS     (N=303 pictures, R="0.5 0.38 0.25" bpp in the environment)
"""

# ruff: noqa
import sys, os, cv2, numpy as np, dataclasses, time
import rjpeg, keras, tensorflow as tf
from keras import ops
from pathlib import Path
from rjpeg import codec
from rjpeg.decoder import coded_picture, read_region_file
from rjpeg.restoration import restoration_features, step_octaves, restore
from train import checkpoints
from train.photos import *
from train.teachers import load_teacher
from train.importance import gradient_statistics
from train.dataset import centered, target_of
from train.restoration import restored
from train.twin import resize
from train.tune import changed, _log_softmax
from rjpeg.runtime import Quantization

D = Path(sys.argv[1])
N = int(os.environ.get("N", "303"))
rates = [float(x) for x in os.environ.get("R", "0.5 0.38 0.25").split()]
names = [n for n in list_photos(D) if is_held_back(n, 0.1)][:N]
clean = np.stack([center_crop(read_photo(D / n), 224) for n in names])
ck = checkpoints.load_checkpoint(checkpoints.FOLDER)
net = ck.restorer
T = [load_teacher(t, 224) for t in ("efficientnet-lite0", "efficientnet-lite1")]
J = load_teacher("efficientnet-lite2", 224)
lp = [_log_softmax(t.predict(clean.astype(np.float32), verbose=0, batch_size=32)) for t in T]
lj = _log_softmax(J.predict(clean.astype(np.float32), verbose=0, batch_size=32))
model = rjpeg.load_model(None)
CELL = 4


@tf.function(reduce_retracing=False)
def grad(coded, rest, p, k, through):
    t = T[k]
    with tf.GradientTape() as g:
        g.watch(coded)
        if through:
            s = coded.shape[1]
            r = s // 4
            cells = (
                tf.reshape(tf.transpose(tf.reshape(coded, (-1, r, 4, r, 4, 3)), (0, 1, 3, 2, 4, 5)), (-1, r, r, 48))
                - 128
            )
            y = restored(net(tf.concat([cells, rest], -1)), coded, 224)
        else:
            y = resize(coded, 224, 224)
        b = tf.nn.log_softmax(t(y, training=False))
        kl = tf.reduce_sum(tf.exp(p) * (p - b))
    return kl, g.gradient(kl, coded)


class Side:
    input_quantization = Quantization(1.0, 0)
    output_quantization = Quantization(1 / 20, 0)
    oct = None

    def run(self, a):
        if a.shape[1:3] != self.oct.shape[:2]:
            raise SystemExit(f"{a.shape} {self.oct.shape}")
        return np.clip(np.floor(self.oct * 20 + 0.5), -128, 127).astype(np.int8)[None]


def judge(frames):
    b = _log_softmax(J.predict(np.stack(frames).astype(np.float32), verbose=0, batch_size=32))
    kl = np.sum(np.exp(lj) * (lj - b), 1)
    top = lj.argmax(1)
    return kl, np.exp(b[np.arange(len(top)), top]), b.argmax(1) == top


def code(m, refine, bpp, sides=None, sizes=None):
    out = []
    jp = []
    used = []
    enc = rjpeg.Encoder(m, refine=refine)
    plain = rjpeg.Decoder(m)
    dec = rjpeg.Decoder(m, restore=True)
    outs = []
    for i, c in enumerate(clean):
        if sides is not None:
            m.__dict__["predictor"].oct = sides[i]
        d = enc.encode_with_details(
            np.ascontiguousarray(c[..., ::-1]),
            target_bytes=int(bpp * 224 * 224 / 8),
            coding_size=None if sizes is None else sizes[i],
        )
        jp.append(d)
        used.append(len(d.jpeg) * 8 / 224**2)
        out.append(dec.decode(d.jpeg)[..., ::-1])
        outs.append(plain.decode(d.jpeg)[..., ::-1])
    return jp, np.mean(used), out, outs


def reporter(bpp):
    """Prints a setting's divergence and belief, plain and restored, paired with the first one's."""
    ref = {}

    def report(name, used, fr, pl):
        for what, f in (("plain", pl), ("restored", fr)):
            kl, be, ag = judge(f)
            r = ref.setdefault(what, (kl, be))
            d = kl - r[0]
            e = be - r[1]
            n = np.sqrt(len(d))
            print(
                f"{bpp} {name:22s} {what:9s} used {used:.4f} KL {kl.mean():.3f} ({d.mean():+.3f}±{d.std() / n:.3f}) agree {ag.mean():.3f} belief {be.mean():.3f} ({e.mean():+.4f}±{e.std() / n:.4f})",
                flush=True,
            )

    return report

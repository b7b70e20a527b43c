"""A network that edits frames at their coding size before they are coded; trained through the codec's twin.

python -m experiments.editor PHOTOS 1500 EDITOR.keras && python -m experiments.judge_editor PHOTOS EDITOR.keras
"""

# ruff: noqa
import sys, os, cv2, numpy as np, time
import rjpeg, keras, tensorflow as tf
from keras import ops, layers
from pathlib import Path
from rjpeg import codec, restoration
from rjpeg.decoder import read_region_file
from rjpeg.restoration import restoration_features, step_octaves
from train import checkpoints, twin, rate
from train.photos import *
from train.teachers import load_teacher
from train.restoration import restored, with_features, CROP_AREA
from train.config import load_config, CONFIG_FILE
from train.disagreement import divergence, parameters
from train.networks import build_restorer

D = Path(sys.argv[1])
kept = [n for n in list_photos(D) if not is_held_back(n, 0.1)]
model = rjpeg.load_model(None)
enc = rjpeg.Encoder(model)
per = 4


def pairs(rounds, seed):
    rng = np.random.default_rng(seed)
    G = {}
    for k in range(rounds):
        for n in kept:
            p = read_photo(D / n)
            crop = center_crop(p, 224) if rng.random() < 0.25 else random_crop(p, 224, CROP_AREA, rng)
            bpp = float(np.exp(rng.uniform(*np.log((0.18, 0.7)))))
            try:
                e = enc.encode_with_details(
                    np.ascontiguousarray(crop[..., ::-1]), target_bytes=int(bpp * 224 * 224 / 8)
                )
            except rjpeg.errors.TargetError:
                continue
            small = codec.reduce(crop, e.coding_size)
            G.setdefault(e.coding_size[0], []).append(
                (
                    crop,
                    small,
                    np.stack(e.tables[:2]).astype(np.float32),
                    e.quality_map,
                    np.float32(np.log2(bpp)),
                    np.float32(len(e.jpeg) * 8),
                )
            )
    G = {s: [np.stack(c) for c in zip(*r)] for s, r in sorted(G.items())}
    return G


def rgb2ycc(x):
    m = np.linalg.inv(twin.YCBCR_TO_RGB)  # rgb = ycc @ Y2R -> ycc = rgb @ inv
    return ops.matmul(x, ops.convert_to_tensor(m.astype(np.float32)))


def fdct(p):
    m = ops.convert_to_tensor(twin.dct_matrix())
    h, w = p.shape[1:3]
    b = ops.reshape(p, (-1, h // 8, 8, w // 8, 8))
    return ops.reshape(ops.einsum("vy,nryqx,ux->nrqvu", m, b, m), (-1, h // 8, w // 8, 64))


def coefs(rgb):
    y = rgb2ycc(rgb)
    l = y[..., 0] - 128.0
    c = ops.average_pool(y[..., 1:], 2)
    return fdct(l), fdct(c[..., 0]), fdct(c[..., 1])


def build_editor(width=64, blocks=3):
    small = keras.initializers.RandomNormal(stddev=0.01)
    least = keras.initializers.RandomNormal(stddev=0.0005)
    f = keras.Input((None, None, 50))
    x = layers.Conv2D(width, 3, padding="same", activation="relu")(f)
    for _ in range(blocks):
        y = layers.Conv2D(width, 3, padding="same", activation="relu")(x)
        y = layers.Conv2D(width, 3, padding="same", kernel_initializer=small)(y)
        x = layers.Add()([x, y])
    return keras.Model(f, layers.Conv2D(48, 1, kernel_initializer=least)(x))


def cells(x):
    s = x.shape[1]
    r = s // 4
    return ops.reshape(ops.transpose(ops.reshape(x, (-1, r, 4, r, 4, 3)), (0, 1, 3, 2, 4, 5)), (-1, r, r, 48))


def uncells(o):
    r = o.shape[1]
    return ops.reshape(ops.transpose(ops.reshape(o, (-1, r, r, 4, 4, 3)), (0, 1, 3, 2, 4, 5)), (-1, r * 4, r * 4, 3))


def edit(editor, small, lb):
    s = small.shape[1]
    r = s // 4
    plane = ops.broadcast_to(ops.reshape(lb, (-1, 1, 1, 1)), (small.shape[0], r, r, 1))
    f = ops.concatenate([(cells(small) - 128) / 64.0, plane, ops.full((small.shape[0], r, r, 1), s / 224.0)], -1)
    return ops.clip(small + 64.0 * uncells(editor(f)), 0, 255)


def quant(c, steps):
    r = c / steps
    off = np.full(64, 0.45, np.float32)
    off[0] = 0.5
    ex = ops.floor(ops.abs(r) + off) * ops.sign(r)
    return twin.straight_through(ex, r), r


BETA = 0.12


def bits_of(rs, qs):
    w = rate.DEFAULT.weights
    t = 0
    for r, q in zip(rs, qs):
        a = ops.abs(r[..., 1:])
        soft = ops.sigmoid((a - 0.55) / BETA)
        hard = ops.cast(ops.abs(q[..., 1:]) > 0.5, "float32")
        mag = rate.log2(1 + ops.maximum(a - 0.05, 0) * soft)
        t = (
            t
            + w[0] * ops.sum(twin.straight_through(hard, soft), (1, 2, 3))
            + w[1]
            * ops.sum(twin.straight_through(rate.log2(1 + ops.abs(ops.stop_gradient(q[..., 1:]))), mag), (1, 2, 3))
        )
        t = t + w[2] * ops.sum(rate.log2(1 + rate._dc_differences(q)), (1, 2)) + w[3] * float(q.shape[1] * q.shape[2])
    return t + rate.DEFAULT.constant


def code(small, tables, levels):
    off = ops.cast(levels, "float32") / per
    l, cb, cr = coefs(small)
    ls = twin.region_blocks(twin.level_steps(tables[:, 0], off[..., 0]))
    cs = twin.level_steps(tables[:, 1], off[..., 1])
    z = [quant(x, s) for x, s in zip((l, cb, cr), (ls, cs, cs))]
    q = [a for a, _ in z]
    r = [b for _, b in z]
    planes = [twin.inverse_dct(a * s) for a, s in zip(q, (ls, cs, cs))]
    return twin.rgb_from_planes(*planes), bits_of(r, q)


def octaves_of(tables, levels):
    return np.stack([step_octaves(l, (t[0], t[1]), model.leveling.scales) for t, l in zip(tables, levels)])


def rest_features(tables, levels, s):
    return np.stack(
        [restoration_features(np.zeros((s, s, 3), np.uint8), o, s / 224)[..., 48:] for o in octaves_of(tables, levels)]
    )


if __name__ == "__main__":
    steps = int(sys.argv[2])
    out = sys.argv[3]
    E = float(os.environ.get("E", "1.0"))
    FW = float(os.environ.get("FW", "0.5"))
    G = pairs(2, 5)
    print({s: len(g[0]) for s, g in G.items()}, flush=True)
    net = checkpoints.load_checkpoint(checkpoints.FOLDER).restorer
    net.trainable = False
    T = [with_features(load_teacher(t, 224)) for t in ("efficientnet-lite0", "efficientnet-lite1")]
    ed = build_editor()
    opt = keras.optimizers.Adam(
        keras.optimizers.schedules.CosineDecay(1e-5, steps - 100, warmup_target=1e-3, warmup_steps=100),
        global_clipnorm=1.0,
    )
    opt.build(ed.trainable_variables)

    @tf.function(reduce_retracing=False)
    def step(crop, small, tables, levels, lb, rf):
        with tf.GradientTape() as g:
            x = edit(ed, small, lb)
            y, b = code(x, tables, levels)
            n = tf.shape(y)[0] // 2
            fr = restored(net(tf.concat([cells(y[:8]) - 128.0, rf[:8]], -1)), y[:8], 224)
            pl = tf.clip_by_value(twin.resize(y[8:], 224, 224), 0, 255)
            frames = tf.concat([fr, pl], 0)
            nats = []
            df = []
            for k, t in enumerate(T):
                a = t(crop[k::2], training=False)
                c = t(frames[k::2], training=False)
                p = tf.nn.log_softmax(a[-1])
                q = tf.nn.log_softmax(c[-1])
                nats.append(tf.reduce_sum(tf.exp(p) * (p - q), -1))
                for u, v in zip(a[:-1], c[:-1]):
                    sp = tf.reduce_mean(tf.square(u - tf.reduce_mean(u, (0, 1, 2), keepdims=True)))
                    df.append(tf.reduce_mean(tf.square(u - v)) / (sp + 1e-6))
            nats = tf.reduce_mean(tf.concat(nats, 0))
            d = tf.add_n(df) / len(df)
            L = nats + FW * d
            B = tf.reduce_mean(b)
            loss = L + tf.stop_gradient(E * L / B) * B
        gr = g.gradient(loss, ed.trainable_variables)
        opt.apply_gradients(zip(gr, ed.trainable_variables))
        return nats, d, B

    rng = np.random.default_rng(1)
    S = list(G)
    c = np.array([len(G[s][0]) for s in S], float)
    acc = []
    t0 = time.time()
    for k in range(steps):
        s = int(rng.choice(S, p=c / c.sum()))
        g = G[s]
        i = rng.choice(len(g[0]), 16)
        crop, small, tab, lev, lb, by = (a[i] for a in g)
        if rng.random() < 0.5:
            crop, small, lev = (np.ascontiguousarray(a[:, :, ::-1]) for a in (crop, small, lev))
        n, d, B = step(
            *(
                tf.constant(a)
                for a in (
                    crop.astype(np.float32),
                    small.astype(np.float32),
                    tab,
                    lev.astype(np.float32),
                    lb,
                    rest_features(tab, lev, s),
                )
            )
        )
        acc.append((float(n), float(d), float(B) / by.mean()))
        if k % 50 == 49:
            m = np.mean(acc[-50:], 0)
            print(
                k + 1,
                f"nats {m[0]:.3f} features {m[1]:.3f} bits {m[2]:.3f} of before, {time.time() - t0:.0f}s",
                flush=True,
            )
        if k % 300 == 299:
            ed.save(out)
    ed.save(out)

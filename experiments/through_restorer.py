"""Importance by gradients through the restorer, beside gradients without it: oracle maps free of charge."""

# ruff: noqa
from experiments.common import *
import time

for bpp in rates:
    report = reporter(bpp)
    base, u, fr, pl = code(model, True, bpp)
    report("shipped", u, fr, pl)
    sizes = [d.coding_size for d in base]
    flat = changed(rjpeg.load_model(None), "gain=0").model
    _, u, fr, pl = code(flat, False, bpp, None, sizes)
    report("flat", u, fr, pl)
    # gradients at the shipped system's coded pictures
    octs = {False: [None] * len(clean), True: [None] * len(clean)}
    t0 = time.time()
    files = [read_region_file(d.jpeg, model) for d in base]
    by = {}
    for i, s in enumerate(sizes):
        by.setdefault(s, []).append(i)
    for s, idx in by.items():
        for a in range(0, len(idx), 16):
            ii = idx[a : a + 16]
            pad = (ii + [ii[0]] * 16)[:16]
            cs = np.stack([coded_picture(files[i], model)[..., ::-1] for i in pad])
            oc = [
                step_octaves(files[i].quality_map, (files[i].tables[0], files[i].tables[1]), model.leveling.scales)
                for i in pad
            ]
            feats = np.stack([restoration_features(c[..., ::-1], o, s[0] / 224) for c, o in zip(cs, oc)])
            for through in (False, True):
                tg = []
                for k in range(2):
                    _, g = grad(
                        tf.constant(cs.astype(np.float32)),
                        tf.constant(feats[..., 48:]),
                        tf.constant(lp[k][pad]),
                        k,
                        through,
                    )
                    imp, _ = gradient_statistics(g.numpy())
                    tg.append(target_of(imp))
                o = centered(np.mean(tg, 0))
                for j, i in enumerate(ii):
                    octs[through][i] = o[j]
    print("grad s", time.time() - t0, {s: len(v) for s, v in by.items()}, flush=True)
    a = np.concatenate([o.ravel() for o in octs[False]])
    b = np.concatenate([o.ravel() for o in octs[True]])
    print("corr plain/through", np.corrcoef(a, b)[0, 1], "std", a.std(), b.std())
    for gain in (1.0, 0.7):
        om = changed(rjpeg.load_model(None), f"gain={gain}").model
        om.__dict__["predictor"] = Side()
        for through in (False, True):
            _, u, fr, pl = code(om, False, bpp, octs[through], sizes)
            report(f"oracle through={through} g{gain}", u, fr, pl)

"""Which small coefficients are left out, by the oracle's gradients: of regions, blocks, bands, coefficients."""

# ruff: noqa
from experiments.common import *
from rjpeg import _native
from train.importance import YCBCR_TO_RGB, dct_matrix


def block_grad(g):
    """(n,s,s,3)-> luma (n,b,b,64), chroma (n,b/2,b/2,64) squared gradient by coefficient"""
    l, cb, cr = np.moveaxis(g @ YCBCR_TO_RGB.T, -1, 0)
    n, h, w = l.shape

    def d(p):
        n, h, w = p.shape
        return np.square(
            np.einsum(
                "vy,nryqx,ux->nrqvu", dct_matrix(), p.reshape(n, h // 8, 8, w // 8, 8), dct_matrix(), optimize=True
            ).reshape(n, h // 8, w // 8, 64)
        )

    c = [p.reshape(n, h // 2, 2, w // 2, 2).sum((2, 4)) for p in (cb, cr)]
    return d(l), d(c[0]) + d(c[1])


v, u = np.divmod(np.arange(64), 8)
band = np.where(u + v <= 2, 0, np.where(u + v <= 5, 1, 2))
band[0] = 0


class Enc(rjpeg.Encoder):
    W = None
    ref = {}
    K = 0.05
    S = 1.0
    mode = "block"

    def _quantize(self, picture, steps, levels, before, dead_zone):
        super()._quantize(picture, steps, levels, None, dead_zone)
        if self.K == 0:
            return
        G = self.W
        lev = levels
        for p in range(3):
            ch = min(p, 1)
            g = G[ch]  # (b,b,64) mean squared gradients
            st = steps[ch][lev[..., ch]]  # (rows,cols,64)
            if ch == 0:
                st = st.repeat(2, 0).repeat(2, 1)
            q = picture.quantized[p]
            c = picture.coefficients[p]
            st = st[: q.shape[0], : q.shape[1]]
            st[..., 0] = st[..., 1]
            w = g * st**2
            if p < 2:
                self.ref[ch] = np.exp(np.log(w[..., 1:] + 1e-30).mean())
            dz = np.clip(self.K * (self.ref[ch] / (w + 1e-30)) ** self.S, 0, 0.45)
            r = np.abs(c) / st
            kill = (np.abs(q) == 1) & (r < 0.5 + dz)
            kill[..., 0] = False
            q[kill] = 0
            picture.masks[p][...] = _native.find_masks(q)


def smooth(G, mode):
    out = []
    for ch, g in enumerate(G):
        if mode == "coef":
            out.append(g)
            continue
        o = np.empty_like(g)
        if mode == "region":
            m = g[..., 1:].mean(-1)
            if ch == 0:
                m = m.reshape(m.shape[0] // 2, 2, m.shape[1] // 2, 2).mean((1, 3)).repeat(2, 0).repeat(2, 1)
            o[...] = m[..., None]
        elif mode == "block":
            o[...] = g[..., 1:].mean(-1)[..., None]
        elif mode == "blockband":
            for b in range(3):
                k = (band == b) & (np.arange(64) > 0)
                o[..., band == b] = g[..., k].mean(-1)[..., None]
        elif mode == "freq":
            o[...] = g.mean((0, 1))
        elif mode == "regionband":
            for b in range(3):
                k = (band == b) & (np.arange(64) > 0)
                m = g[..., k].mean(-1)
                if ch == 0:
                    m = m.reshape(m.shape[0] // 2, 2, m.shape[1] // 2, 2).mean((1, 3)).repeat(2, 0).repeat(2, 1)
                o[..., band == b] = m[..., None]
        out.append(o)
    return out


for bpp in rates:
    report = reporter(bpp)
    base, u, fr, pl = code(model, True, bpp)
    report("shipped", u, fr, pl)
    sizes = [d.coding_size for d in base]
    files = [read_region_file(d.jpeg, model) for d in base]
    by = {}
    GR = [None] * len(clean)
    for i, s in enumerate(sizes):
        by.setdefault(s, []).append(i)
    for s, idx in by.items():
        for a in range(0, len(idx), 16):
            ii = idx[a : a + 16]
            pad = (ii + [ii[0]] * 16)[:16]
            cs = np.stack([coded_picture(files[i], model)[..., ::-1] for i in pad])
            acc = None
            for k in range(2):
                _, g = grad(
                    tf.constant(cs.astype(np.float32)),
                    tf.zeros((16, s[0] // 4, s[0] // 4, 5)),
                    tf.constant(lp[k][pad]),
                    k,
                    False,
                )
                G = [x / (x.mean((1, 2, 3), keepdims=True) + 1e-30) for x in block_grad(g.numpy())]
                acc = G if acc is None else [x + y for x, y in zip(acc, G)]
            for j, i in enumerate(ii):
                GR[i] = [x[j] for x in acc]
    for mode, K, S in eval(
        os.environ.get(
            "TRY", "[('block',.05,1.),('blockband',.05,1.),('coef',.05,.5),('freq',.05,1.),('region',.05,1.)]"
        )
    ):
        m = dataclasses.replace(rjpeg.load_model(None), dead_zone=0.0)
        e = Enc(m)
        e.K = K
        e.S = S
        e.ref = {}
        plain = rjpeg.Decoder(m)
        dec = rjpeg.Decoder(m, restore=True)
        o1 = []
        o2 = []
        us = []
        for i, c in enumerate(clean):
            e.W = smooth(GR[i], mode)
            d = e.encode_with_details(
                np.ascontiguousarray(c[..., ::-1]), target_bytes=int(bpp * 224 * 224 / 8), coding_size=sizes[i]
            )
            us.append(len(d.jpeg) * 8 / 224**2)
            o1.append(dec.decode(d.jpeg)[..., ::-1])
            o2.append(plain.decode(d.jpeg)[..., ::-1])
        report(f"{mode} K{K} S{S}", np.mean(us), o1, o2)

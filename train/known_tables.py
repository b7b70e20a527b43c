"""Quantization tables of others: 64 steps each in natural order, which mean quality 50."""

__all__ = ["ANNEX_K_CHROMA", "ANNEX_K_LUMA", "ROBIDOUX"]


def _steps(text: str) -> tuple[int, ...]:
    return tuple(int(step) for step in text.split())


ANNEX_K_LUMA = _steps("""
    16 11 10 16  24  40  51  61
    12 12 14 19  26  58  60  55
    14 13 16 24  40  57  69  56
    14 17 22 29  51  87  80  62
    18 22 37 56  68 109 103  77
    24 35 55 64  81 104 113  92
    49 64 78 87 103 121 120 101
    72 92 95 98 112 100 103  99
""")
"""ITU-T T.81, table K.1."""

ANNEX_K_CHROMA = _steps("""
    17 18 24 47 99 99 99 99
    18 21 26 66 99 99 99 99
    24 26 56 99 99 99 99 99
    47 66 99 99 99 99 99 99
    99 99 99 99 99 99 99 99
    99 99 99 99 99 99 99 99
    99 99 99 99 99 99 99 99
    99 99 99 99 99 99 99 99
""")
"""ITU-T T.81, table K.2."""

ROBIDOUX = _steps("""
    16 16  16  18  25  37  56  85
    16 17  20  27  34  40  53  75
    16 20  24  31  43  62  91 135
    18 27  31  40  53  74 106 156
    25 34  43  53  69  94 131 189
    37 40  62  74  94 124 169 238
    56 53  91 106 131 169 226 311
    85 75 135 156 189 238 311 418
""")
"""Nicolas Robidoux's table for ImageMagick, which mozjpeg uses by default."""

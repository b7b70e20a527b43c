"""Whole frames with ground truth: bytes of Region JPEG and of other codecs at which a network sees as much.

`pictures` reads pictures and their truth, `boxes` and `segments` measure what a detector and a segmenter see, `bench`
runs a codec at a quality, `curves` compares codecs at equal score. `python -m evaluate.detection` does all of it.
"""

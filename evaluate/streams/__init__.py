"""Streams of fixed cameras: bytes of Region JPEG and of other codecs at which a detector finds the same.

`clips` makes frames of a video, `judges` says what is in them. `pictures`, `films` and `ours` are the codecs, `measure`
runs one at a setting, `curves` compares them at equal F1. `python -m evaluate.streams` does all of it.
"""

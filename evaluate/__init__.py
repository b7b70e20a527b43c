"""Evaluation of Region JPEG: accuracy of a classifier against bytes, beside other codecs.

`python -m evaluate` measures, `python -m evaluate.ablation` says what every part is worth, `python -m evaluate.video`
measures on frames of a fixed camera at other sizes, `python -m evaluate.exactness` checks that decoders read the
encoder's map, `python -m evaluate.loop` runs capture and server once (`make run`).
"""

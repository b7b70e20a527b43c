"""Evaluation of Region JPEG: accuracy of a classifier against bytes, beside other codecs.

`python -m evaluate` measures, `python -m evaluate.exactness` checks that decoders read the encoder's map,
`python -m evaluate.loop` runs capture and server once (`make run`).
"""

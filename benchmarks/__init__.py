"""Speed of Region JPEG beside OpenCV's JPEG codec, in one run: `python -m benchmarks`."""

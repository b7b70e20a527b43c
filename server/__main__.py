"""`python -m server`, see `server.cli`."""

import sys

from rjpeg._arguments import run_program
from server.cli import main

sys.exit(run_program(main))

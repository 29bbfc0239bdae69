"""How tests run here: OpenMP threads spin briefly, then sleep, as the commands have it."""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "1000")

"""How tests run here: OpenMP threads sleep while they wait, as the commands have it."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

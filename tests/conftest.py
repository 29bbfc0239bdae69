"""How tests run here: OpenMP threads spin briefly, then sleep, as the commands have it; Ctrl-C is heard."""

import os
import signal

os.environ.setdefault("GOMP_SPINCOUNT", "1000")
# a shell that starts tests in the background leaves SIGINT ignored
signal.signal(signal.SIGINT, signal.default_int_handler)

"""The command line and the Ray entry points: the only place that wires the other three together."""

"""Generated indoor scenes with exact labels: what a demo and the tests train and score on, with no download."""

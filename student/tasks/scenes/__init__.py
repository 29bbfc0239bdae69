"""Generated indoor scenes with exact labels: data for the demo and the tests, with no download."""

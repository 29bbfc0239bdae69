"""Offline: images -> views -> frozen teachers -> codes -> storage. Knows no student."""

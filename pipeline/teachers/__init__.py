"""Frozen vision foundation models behind one small interface."""

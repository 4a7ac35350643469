"""Boxes: containers, their pipe, their workspace. Knows nothing of models or policies."""

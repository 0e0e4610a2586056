"""Handwritten digits: the first run of everybody."""

"""Layers with seeds: hosts, chunks, what they measure, and the way in and out of a model."""

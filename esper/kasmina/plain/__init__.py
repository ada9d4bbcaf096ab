"""Models without seeds: harvested ones, and files that any program can read."""

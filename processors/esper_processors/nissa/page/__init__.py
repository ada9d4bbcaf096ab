"""The page: what a browser shows of runs, and how it gets it."""

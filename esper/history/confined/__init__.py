"""The engine behind its walls: what a query may say, and a process that can reach nothing else."""

"""Runs that might have been: forks, and the effect of one decision."""

"""Live alerts: detectors over what Nissa reads, alerts that survive a kill, and where they go."""

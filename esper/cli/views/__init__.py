"""Commands that look: at runs as they go, at decisions, kernels, and what differs."""

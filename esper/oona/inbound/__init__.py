"""How messages come in: opened, checked, taken once; what cannot be taken is a dead letter."""

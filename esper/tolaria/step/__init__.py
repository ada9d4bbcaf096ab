"""One optimizer step of a model that grows, held-out figures, and when a seed moves on."""

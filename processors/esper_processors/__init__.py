"""Faust stream processors: Tamiyo decides, Nissa observes. Esper never imports them."""

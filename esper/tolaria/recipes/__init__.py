"""Recipes that come with Esper: a TOML file each, and the functions that it names."""

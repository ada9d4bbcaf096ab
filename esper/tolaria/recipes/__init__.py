"""What a run is told to do, and where it runs: recipes, those that come with Esper (a TOML file
each, and the functions that it names), data, environment.
"""

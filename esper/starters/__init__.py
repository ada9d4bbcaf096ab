"""What `esper init` writes: for each task a module with a model and its data, and a recipe around
them, as a user would write them; the script has a training loop of its own.

They stand here as they are written out, so the checks of this tree hold for them too.
"""

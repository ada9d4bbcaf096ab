"""A run: the loop, what happens between its steps, and how all of it is put together."""

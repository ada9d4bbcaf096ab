"""A run's journal at its writer, the states that it names, and what is kept to come back
to them.
"""

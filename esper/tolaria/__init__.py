"""Tolaria, the training orchestrator: recipes, the step, the loop, gates, consultation, and the
journal at its writer.
"""

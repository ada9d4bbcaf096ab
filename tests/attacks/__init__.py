"""Attacks on a stack of their own."""

"""Tamiyo decides: a Faust app that answers each packet of a run with commands for its seeds, or
none.
"""

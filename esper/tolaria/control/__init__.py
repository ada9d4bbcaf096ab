"""Tolaria's control API: one small process without torch that starts runs, tells of them, and
carries people's requests to their trainers.
"""

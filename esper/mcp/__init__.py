"""Esper for agents: its commands as tools of the Model Context Protocol.

Source: Model Context Protocol, specification of 2025-11-25.
"""

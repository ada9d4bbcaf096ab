"""Processes of the stack: children and their ends, who wants them, ports, and the state file."""

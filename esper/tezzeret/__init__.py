"""Tezzeret, the compiler: blueprints become modules, are verified, and leave as kernels.

`esper.tezzeret.build` needs no Kafka.
"""

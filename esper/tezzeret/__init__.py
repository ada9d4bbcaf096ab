"""Tezzeret, the compiler: blueprints are built, verified, and leave as kernels."""

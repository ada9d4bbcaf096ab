"""Keys, and what is sealed under them: master keys wrap family keys, family keys seal snapshots,
kernels and models. See README.md.
"""

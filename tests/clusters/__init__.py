"""Tests on a cluster of three brokers."""

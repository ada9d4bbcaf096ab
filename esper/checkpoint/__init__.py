"""Snapshots: tensors in content-addressed chunks, a manifest that names every one of them."""

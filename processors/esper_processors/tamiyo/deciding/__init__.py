"""What Tamiyo decides with: bandits, features, experience, the state of a run, and the policy.

Pure.
"""

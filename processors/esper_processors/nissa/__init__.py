"""Nissa observes: a Faust app that reads every topic of a run and serves its metrics and status."""

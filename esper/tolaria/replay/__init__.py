"""Any step of a run rebuilt from its record, and a run proven piece by piece."""

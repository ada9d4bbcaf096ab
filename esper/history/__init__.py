"""The history: every committed message of every topic as a row in ClickHouse, for SQL."""

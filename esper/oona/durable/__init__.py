"""What may not be lost: journals and audit records, from the fsynced outbox to the committed
transaction, with their chains of signatures.
"""

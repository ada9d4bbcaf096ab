"""What stands before a request: who asks, with what right, how much, and the record of it."""

"""The port of the message bus, its two implementations, and what a client of Kafka needs."""

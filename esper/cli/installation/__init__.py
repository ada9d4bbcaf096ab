"""Commands about the installation: the stack, Kafka, keys, the history."""

"""The embedded Kafka: Java, jars, configuration, passwords, and what makes it start quickly."""

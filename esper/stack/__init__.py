"""The local stack: an embedded Kafka broker and the parts around it, kept alive by one supervisor."""

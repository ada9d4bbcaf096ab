"""The interpreter of blueprints: graphs of operators become torch modules.

Trainer and foundry share it, and it needs no Kafka.
"""

"""Growth in the training loops of frameworks: `esper.integrations.transformers`, `.lightning` and
`.accelerate`, each with the extra of its name.
"""

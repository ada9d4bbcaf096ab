"""The HTTP foundation: one way to serve requests, with tokens, roles, TLS, audit and limits."""

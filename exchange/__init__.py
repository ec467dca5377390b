"""Exchanges behind the port: the matching engine and the paper exchange over it."""

"""Measurements against the budgets; nothing here is a test."""

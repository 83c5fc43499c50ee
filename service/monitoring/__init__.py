"""Logs and metrics. Imports nothing else of the service."""

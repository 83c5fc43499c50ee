"""Queues, admission control, and the way of an image through them. No HTTP."""

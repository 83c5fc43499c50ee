"""Decodes images in processes that can be killed. No engine, no HTTP."""

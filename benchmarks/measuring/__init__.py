"""Shared code of the benchmarks: photos, servers, load generator, tables."""

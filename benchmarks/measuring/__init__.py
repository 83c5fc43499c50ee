"""What the benchmarks share: photos, servers, a load generator, tables."""

"""The offline HTML report. Computes no metric."""

"""Every option of a run, and the defaults that follow from the size of the data. No files of a run, no torch."""

"""One module per job, as the command line and programs call it. No argument parsing, no printing of results."""

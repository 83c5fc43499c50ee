"""Arguments, output and exit codes of the graft command. No logic of a job."""

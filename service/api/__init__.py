"""The contract of the REST API: options, responses, problems. No HTTP."""

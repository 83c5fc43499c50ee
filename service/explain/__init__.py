"""Heat maps of a prediction, and how well they explain it. No HTTP."""

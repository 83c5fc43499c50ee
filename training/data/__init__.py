"""Any input to samples to splits. No torch."""

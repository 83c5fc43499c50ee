"""Image corruptions and adversarial attacks, and how many predictions they change."""

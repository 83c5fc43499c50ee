"""A trained model to a package. The format itself is in graft.service.artifact."""

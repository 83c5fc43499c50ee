"""The offline half: a folder of labeled images in, a package directory out. May import `service`, never the reverse."""

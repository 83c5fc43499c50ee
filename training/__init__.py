"""The offline half: a folder of labelled images in, a package directory out. May import `service`, never the reverse."""

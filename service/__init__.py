"""The deployed half: a package directory in, answers over HTTP out. Imports nothing from `training`."""

"""Folders of images: which of them are splits, folds and labels. Opens no file."""

"""Issues of a data set: unreadable files, duplicates, label errors, outliers. Changes no file."""

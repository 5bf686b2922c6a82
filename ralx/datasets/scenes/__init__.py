"""Generated street scenes: a data set with labels that needs no download."""

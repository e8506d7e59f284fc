"""What is wrong with a data set, before a model is trained on it."""

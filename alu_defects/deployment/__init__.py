"""A trained network decides on new images; see `predictor.Predictor`."""

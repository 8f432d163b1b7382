"""From recorded bars to a verified bundle: labelled windows, training, calibration, export."""

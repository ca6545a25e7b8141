"""From price files to cleaned bars, features, windows and datasets."""

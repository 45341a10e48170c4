"""Known data sets: one module for each, which recognizes its rows and converts them to a generic format."""

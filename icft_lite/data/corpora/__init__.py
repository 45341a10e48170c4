"""Data sets with a structure of their own: a module recognizes their rows and converts them to a shape of `formats`."""

"""How the samples are made from the tables in facts/. `build.py` next to this folder writes them."""

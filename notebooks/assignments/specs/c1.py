"""The capstone of the course: its protocol. Private specifications may name a file of their own (`data`)."""

from constants import SEED, SUFFIX

from icft_lite.grading.capstone import Capstone

CAPSTONE = Capstone(id="C1", version=f"1.0{SUFFIX}", seed=SEED)

#!/usr/bin/env bash
# Gradescope executes this once, as root, when it builds the image: installs Python and what the package needs.
# The package itself is not installed: grading uses the copy in source/, and students get one without the solutions.
set -euo pipefail

base=/autograder
apt-get update
for version in 3.13 3.12 3.11; do
    if apt-get install -y "python$version" "python$version-venv"; then break; fi
done
"python$version" -m venv "$base/venv"
torch=$(grep '^torch==' "$base/source/constraints.txt")
"$base/venv/bin/pip" install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu "$torch"
"$base/venv/bin/pip" install --no-cache-dir -c "$base/source/constraints.txt" -r "$base/source/requirements.txt"

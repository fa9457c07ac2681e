#!/usr/bin/env bash
# The path of a Python of another version than the one that is given, with its headers; nothing where there is none.
# Python 3.12 or newer on the path, or among those of pyenv, the newest first.
set -uo pipefail

read -r -d '' usable <<'PYTHON'
import os, sys, sysconfig
ours = tuple(map(int, sys.argv[1].split(".")))
headers = os.path.join(sysconfig.get_path("include"), "Python.h")
if sys.version_info[:2] == ours or not os.path.exists(headers):
    sys.exit(1)
print(sys.executable)
PYTHON
ours=$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
for version in 3.14 3.13 3.12; do
  for python in "python$version" "$(pyenv root 2>/dev/null)"/versions/"$version".*/bin/python; do
    if command -v "$python" >/dev/null && "$python" -c "$usable" "$ours" 2>/dev/null; then exit 0; fi
  done
done

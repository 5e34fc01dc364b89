#!/bin/sh
# Print the Python to use, or one line about what is missing.
#
#   sh tools/find_python.sh          the Python of .venv, else the first new enough one on PATH
#   sh tools/find_python.sh PYTHON   this one, or why it cannot be used
#
# The minimum version comes from pyproject.toml. A name on PATH proves nothing (version managers
# provide names that only print an error), so each candidate is run.

cd "$(dirname "$0")/.." || exit 1
least=$(sed -n 's/^requires-python = ">=\([0-9.]*\)"$/\1/p' pyproject.toml)

# Written so that any Python since 2.7 can run it: an old one must be able to report its version.
objection='
import sys
found = ".".join(str(number) for number in sys.version_info[:3])
if sys.version_info[:2] < tuple(int(number) for number in sys.argv[1].split(".")):
    print("is Python " + found)
else:
    try:
        import ensurepip, venv
    except ImportError:
        print("is Python " + found + " without its venv module (Debian, Ubuntu: apt-get install python3-venv)")
'

object_to() {
    "$1" -c "$objection" "$least" 2>/dev/null || echo "does not run"
}

if [ -n "$1" ]; then
    reason=$(object_to "$1")
    if [ -z "$reason" ]; then
        printf '%s\n' "$1"
        exit 0
    fi
    printf '%s\n' "PYTHON=$1 $reason: name a Python $least or newer, as in  make setup PYTHON=/path/to/python$least" >&2
    exit 1
fi

seen=
for candidate in .venv/bin/python python3.13 python3.12 python3.11 python3 python; do
    reason=$(object_to "$candidate")
    case $reason in
        '')
            printf '%s\n' "$candidate"
            exit 0
            ;;
        'does not run') ;;
        *) seen="${seen:+$seen, }$candidate $reason" ;;
    esac
done
printf '%s\n' "Python $least or newer is needed (${seen:-no Python was found}): install one, or name one with  make setup PYTHON=/path/to/python$least" >&2
exit 1

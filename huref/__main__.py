"""`python -m huref`: the command line."""

from huref.cli import main

main()

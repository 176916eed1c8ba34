"""`python -m asyncserver` is the command line."""

from asyncserver.cli import main

main()
